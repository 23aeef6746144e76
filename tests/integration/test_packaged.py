"""What the package, the sidecar and the alerts say fits what amqpbuf does."""

import configparser
import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def size(text):
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()
    return int(number) * UNITS[unit]


def sidecar():
    text = (ROOT / "tools/packaging/kubernetes-sidecar.yaml").read_text()
    (pod,) = [part["spec"] for part in yaml.safe_load_all(text) if part["kind"] == "StatefulSet"]
    return pod


def test_the_sidecar_stays_within_its_limits():
    spec = sidecar()
    pod = spec["template"]["spec"]
    (container,) = pod["initContainers"]
    options = {variable["name"]: variable.get("value") for variable in container["env"]}
    memory = size(container["resources"]["limits"]["memory"])
    assert memory >= size(options["AMQPBUF_LISTEN_MAX_MEMORY"]) + 128 * 2**20
    volume = spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert size(volume) > size(options["AMQPBUF_SPOOL_MAX_SIZE"])
    assert pod["terminationGracePeriodSeconds"] > 10  # listen.shutdown_timeout


def test_no_service_of_kubernetes_sets_an_option():
    assert sidecar()["template"]["spec"]["enableServiceLinks"] is False


def test_the_unit_tries_again_but_over_a_wrong_configuration():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read(ROOT / "tools/packaging/amqpbuf.service")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    service = unit["Service"]
    assert (service["Restart"], service["RestartSec"]) == ("on-failure", "1s")
    assert service["RestartPreventExitStatus"] == "2"


def test_the_unit_ends_no_start_that_takes_long():
    unit = configparser.ConfigParser(strict=False)
    unit.read(ROOT / "tools/packaging/amqpbuf.service")
    assert unit["Service"]["TimeoutStartSec"] == "infinity"


def test_no_probe_ends_a_start_that_takes_long():
    (container,) = sidecar()["template"]["spec"]["initContainers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
    assert " --start-period=1h " in (ROOT / "tools/packaging/Dockerfile").read_text()


def test_alerts_look_at_metrics_that_there_are(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    proxy.connect().close()
    shown = set(re.findall(r"^(amqpbuf_\w+)", admin.get("/metrics"), re.M))
    rules = yaml.safe_load((ROOT / "docs/alerts.yaml").read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"amqpbuf_\w+", rule["expr"])}
    assert asked <= shown


@pytest.mark.parametrize("state, fires", [("live", True), ("offline", False)])
def test_alert_of_messages_that_rabbitmq_does_not_confirm(tmp_path, state, fires):
    of = {"user": "shop", "vhost": "/", "instance": "a", "job": "amqpbuf"}
    labels = ",".join(f'{name}="{value}"' for name, value in of.items())
    alert = {"exp_labels": {**of, "severity": "warning"}, "exp_annotations": {
        "summary": "Messages of shop at / wait although RabbitMQ is there",
        "description": "It does not confirm what goes to some queue. confirms_stalled in the log has the exchange "
                       "and routing key."}}
    test = {"rule_files": [str(ROOT / "docs/alerts.yaml")], "tests": [{
        "interval": "1m",
        "input_series": [
            {"series": f"amqpbuf_queue_oldest_age_seconds{{{labels}}}", "values": "0+60x20"},
            {"series": f'amqpbuf_queue_state{{{labels},state="{state}"}}', "values": "1x20"}],
        "alert_rule_test": [{"eval_time": "15m", "alertname": "AmqpbufNotConfirmed",
                             "exp_alerts": [alert] if fires else []}]}]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    subprocess.run(["promtool", "test", "rules", tmp_path / "test.yaml"], check=True)
