"""Jobs on Celery: a worker takes them (celery -A jobs_celery worker), this program dispatches them.

    jobs_celery.py PREFIX COUNT DELAY_S

Environment: BROKER, QUEUE; of the worker also DONE, a file: a line for each job that is done.
"""

import os
import sys

from celery import Celery

app = Celery("jobs", broker=os.environ["BROKER"])
app.conf.update(
    task_default_queue=os.environ["QUEUE"],
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={"confirm_publish": True},
)


@app.task(name="job", bind=True, default_retry_delay=0.2)
def job(self, text):
    """What is called "flaky" fails twice."""
    if text.startswith("flaky") and self.request.retries < 2:
        raise self.retry()
    with open(os.environ["DONE"], "a", encoding="utf-8") as done:
        print(text, file=done)


if __name__ == "__main__":
    prefix, count, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    for number in range(count):
        job.apply_async((f"{prefix}-{number}",), countdown=delay or None)
