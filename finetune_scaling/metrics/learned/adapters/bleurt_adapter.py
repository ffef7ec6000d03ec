"""BLEURT by its authors' package, as a metric program (docs/metrics.md).

Source: Sellam, Das and Parikh, "BLEURT: Learning Robust Metrics for Text Generation", ACL 2020.
"""

import importlib.metadata

from metric_server import arguments, model_identity, serve


def main():
    """Score with a checkpoint directory such as BLEURT-20; references are averaged and sources ignored."""
    options = arguments("BLEURT as a metric program.").parse_args()
    header = {
        "metric": "bleurt",
        "model": model_identity(options.model),
        "references": "mean",
        "version": "bleurt-" + importlib.metadata.version("bleurt"),
    }
    serve(header, lambda: _load(options), options.batch_size)


def _load(options):
    from bleurt.score import BleurtScorer

    scorer = BleurtScorer(options.model)
    return lambda pairs: scorer.score(
        references=[pair["reference"] for pair in pairs],
        candidates=[pair["hypothesis"] for pair in pairs],
        batch_size=options.batch_size,
    )


if __name__ == "__main__":
    main()
