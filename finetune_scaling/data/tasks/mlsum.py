"""MLSum: German, Spanish and French of MLSUM with CNN/DailyMail for English, about 1.1M articles; official splits."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import FilesSource, TfdsSource
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import Template


def _articles(files: str, tfds: str) -> tuple[Part, ...]:
    mlsum = [
        Part(FilesSource(f"mlsum/{code}.{files}.jsonl.gz"), "text", "summary", code, code)
        for code in ("de", "es", "fr")
    ]
    return (*mlsum, Part(TfdsSource("cnn_dailymail", tfds), "article", "highlights", "en", "en"))


TASK = Task(
    name="mlsum",
    kind="summarization",
    template=Template(input="Summarize the following article in {target_language}:\n{source}\nSummary: "),
    max_source_tokens=512,
    max_target_tokens=256,
    train=_articles("train", "train"),
    dev=_articles("validation", "validation"),
    test={"test": _articles("test", "test")},
    documentation="""
English: `python -m finetune_scaling.prepare corpus --task=mlsum` lets TFDS download and prepare cnn_dailymail.
German, Spanish, French: MLSUM (Scialom et al. 2020; the licence allows research) is released as one archive per
language and split; its loading script on the Hugging Face hub no longer runs. Write one JSON object a line, with text
and summary, to mlsum/LL.SPLIT.jsonl.gz (LL = de, es, fr; SPLIT = train, validation, test) in the folder that
task.sources.data_dir names (default: where you are). The release has these two fields already: unzip, rename, gzip.
""",
)
