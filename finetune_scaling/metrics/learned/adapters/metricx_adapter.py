"""MetricX-24 by its authors' repository, as a metric program (docs/metrics.md).

The repository is not a package: --repository names a checkout. Input text, length and end token are as in its
metricx24/predict.py. Scores are predicted errors, 0 (best) to 25.

Source: Juraska et al., "MetricX-24: The Google Submission to the WMT 2024 Metrics Shared Task", WMT 2024.
"""

import os
import subprocess
import sys

from metric_server import arguments, model_identity, serve


def main():
    """Score with a MetricX-24 model; references are averaged, or ignored with --reference-free."""
    parser = arguments("MetricX-24 as a metric program.")
    parser.add_argument("--repository", required=True, help="Checkout of google-research/metricx.")
    parser.add_argument("--tokenizer", default="google/mt5-xl", help="Name or path of mT5's tokenizer.")
    parser.add_argument("--max-input-length", type=int, default=1536, help="Tokens; longer inputs are truncated.")
    parser.add_argument("--reference-free", action="store_true", help="Quality estimation without references.")
    options = parser.parse_args()
    if not os.path.isdir(os.path.join(options.repository, "metricx24")):
        parser.error(f"{options.repository} has no directory metricx24; give a checkout of google-research/metricx")
    header = {
        "metric": "metricx24",
        "model": model_identity(options.model),
        "references": "none" if options.reference_free else "mean",
        "length": options.max_input_length,
        "version": "metricx-" + _commit(options.repository),
    }
    serve(header, lambda: _load(options), options.batch_size)


def _commit(repository):
    done = subprocess.run(["git", "-C", repository, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _load(options):
    sys.path.insert(0, options.repository)
    import torch
    import transformers
    from metricx24 import models

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = models.MT5ForRegression.from_pretrained(options.model).to(device).eval()

    def predict(pairs):
        texts = [_input(pair["source"], pair["hypothesis"], pair.get("reference")) for pair in pairs]
        ids = [tokenizer(text, max_length=options.max_input_length, truncation=True).input_ids[:-1] for text in texts]
        length = max(map(len, ids))
        pad = tokenizer.pad_token_id
        with torch.no_grad():
            found = model(
                input_ids=torch.tensor([row + [pad] * (length - len(row)) for row in ids], device=device),
                attention_mask=torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids], device=device),
            )
        return [float(value) for value in found.predictions]

    return predict


def _input(source, hypothesis, reference):
    text = "source: " + (source or "") + " candidate: " + hypothesis
    return text if reference is None else text + " reference: " + reference


if __name__ == "__main__":
    main()
