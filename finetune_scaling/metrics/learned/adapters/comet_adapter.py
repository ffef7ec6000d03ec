"""COMET by unbabel-comet, as a metric program (docs/metrics.md).

Source: Rei et al., "COMET: A Neural Framework for MT Evaluation", EMNLP 2020.
"""

import importlib.metadata
import os
import warnings

from metric_server import arguments, model_identity, serve

_BATCHES_PER_CALL = 8  # each call of COMET's predict creates a trainer


def main():
    """Score with a checkpoint file or a model that COMET downloads by name, in float32; references are averaged."""
    parser = arguments("COMET as a metric program.")
    parser.add_argument("--reference-free", action="store_true", help="For models that read no reference (COMETKiwi).")
    options = parser.parse_args()
    header = {
        "metric": "comet",
        "model": model_identity(options.model),
        "references": "none" if options.reference_free else "mean",
        "precision": "float32",
        "version": "unbabel-comet-" + importlib.metadata.version("unbabel-comet"),
    }
    serve(header, lambda: _load(options), options.batch_size * _BATCHES_PER_CALL)


def _load(options):
    warnings.filterwarnings("ignore")
    import torch
    from comet import download_model, load_from_checkpoint

    path = options.model if os.path.exists(options.model) else download_model(options.model)
    model = load_from_checkpoint(path)
    if model.requires_references() == options.reference_free:
        raise SystemExit(
            "the model {} references: {} --reference-free in the metric's command".format(
                *(("needs", "omit") if options.reference_free else ("reads no", "add"))
            )
        )
    devices = 1 if torch.cuda.is_available() else 0

    def predict(pairs):
        samples = [
            {"src": pair["source"], "mt": pair["hypothesis"]}
            | ({} if options.reference_free else {"ref": pair["reference"]})
            for pair in pairs
        ]
        return model.predict(samples, batch_size=options.batch_size, gpus=devices, progress_bar=False)["scores"]

    return predict


if __name__ == "__main__":
    main()
