"""Alternating runs, and what comes out of them."""

import json
import pathlib
import statistics


def spread(values):
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


class Results:
    def __init__(self, runs):
        self.runs, self.all = runs, []

    def add(self, title, unit, samples, bound=None):
        """`samples` are {name: values}; each is shown beside the one that is its bound."""
        medians = {name: statistics.median(values) for name, values in samples.items()}
        self.all.append({"title": title, "unit": unit, "samples": samples, "medians": medians})
        text = "  ".join(f"{name} {spread(values)}" for name, values in samples.items())
        if bound in medians and medians[bound]:
            text += "".join(f"  {name}/{bound} {median / medians[bound]:.2f}"
                            for name, median in medians.items() if name != bound)
        print(f"{title}, {unit}: {text}", flush=True)

    def alternate(self, title, unit, measures, bound=None):
        """`measures` are {name: function}. One round of all after the other, as often as there are
        runs."""
        samples = {name: [] for name in measures}
        for _ in range(self.runs):
            for name, measure in measures.items():
                samples[name].append(measure())
        self.add(title, unit, samples, bound)

    def write(self, path):
        pathlib.Path(path).write_text(json.dumps(self.all, indent=1) + "\n")
