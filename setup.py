"""Package metadata: requirements with their tested version ranges and the reason for each.

A lower bound is the oldest version that the tests were run with, an upper bound excludes the first release series that
they were not run with. constraints/ has the exact versions that launch/ installs.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

PYTHON_3_11 = 'python_version < "3.12"'
PYTHON_3_12 = 'python_version >= "3.12"'

GCSFS = "gcsfs>=2026.10,<2027"  # gs:// paths; TensorStore writes the arrays by itself
BEAM = "apache-beam>=2.77,<3"  # preparation of large corpora in parallel, ours and TFDS's
HUB = "huggingface_hub>=2.4,<3"  # public models by name, with resumable downloads

REQUIREMENTS = [
    f"jax>=0.10.1,<0.11; {PYTHON_3_11}",  # models, training and fits; 0.10 is the last series for Python 3.11
    f"jax>=0.11.2,<0.12; {PYTHON_3_12}",
    "flax>=0.12.6,<0.13",  # linen modules inside models/
    "optax>=0.2.6,<0.3",  # Adafactor, AdamW, schedules, L-BFGS
    "orbax-checkpoint>=0.12.4,<0.13",  # checkpoints, also sharded and remote
    "grain>=0.2.15,<0.3",  # MapDataset: batch k is a function of (seed, k)
    "array_record>=0.8.3,<0.9",  # random access to prepared datasets
    "tensorflow-datasets>=4.9.10,<4.10",  # public datasets and our Debian builders, without TensorFlow
    "importlib_resources>=6.5,<8",  # imported but not declared by tensorflow-datasets
    "etils[epath]>=1.13,<2",  # paths that may be gs:// URLs
    "fsspec>=2025.10,<2027",  # remote JSONL and TSV files
    "zstandard>=0.23,<0.26",  # .zst text files
    "sentencepiece>=0.2.2,<0.3",  # training and running the tokenizer
    "sacrebleu>=2.5.1,<2.7",  # BLEU, chrF and TER with signatures
    "langcodes[data]>=3.5,<4",  # language codes, their scripts and English names (CLDR)
    "rouge-score>=0.1.2,<0.2",  # ROUGE
    "nltk>=3.9.1,<4",  # Cistem, the German stemmer of ROUGE
    "safetensors>=0.8,<0.9",  # weights of public checkpoints
    "tokenizers>=0.23.1,<0.24",  # tokenizers of public checkpoints; same bounds as transformers
    "ml-collections>=1.0,<2",  # ConfigDict and the --config flag
    "absl-py>=2.3,<3",  # command-line flags
    "numpy>=2.2,<2.5",  # batches and tables of numbers
    "pandas>=2.3,<3.2",  # tables of points
    "scipy>=1.16,<1.18",  # root finding, statistical tests and intervals
    "matplotlib>=3.10,<3.12",  # plots of the report
    "jinja2>=3.1.6,<4",  # page of the report, LaTeX tables, chat templates (older sandboxes can be escaped)
]

# Reference implementation of the public model families: for tests, and a baseline of benchmarks.
HUGGING_FACE = ["transformers>=5.20,<6", "torch>=2.13,<2.14"]  # torch's CPU build is enough

# Execution of launch/notebooks/ in the tests.
NOTEBOOKS = ["nbclient>=0.10,<0.12", "ipykernel>=7.0,<8", "nbformat>=5.10,<6"]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],  # CUDA 12 wheels run on CUDA 12 and CUDA 13 drivers
    "gcs": [GCSFS],
    "ja": ["sacrebleu[ja]"],  # Japanese BLEU: MeCab and its dictionary
    "ko": ["sacrebleu[ko]"],  # Korean BLEU
    "test": [
        BEAM,
        "pytest>=9.0,<10",
        "pytest-xdist>=3.8,<4",  # one worker per core
        "hypothesis>=6.140,<7",  # property tests
        "ruff>=0.17,<0.18",  # lint and format; each release series formats differently
        "mypy>=2.4,<2.5",
        *HUGGING_FACE,
        "peft>=0.21.2,<0.22",  # reference implementation of the tuning methods and their files
        GCSFS,
        HUB,
        "gcp-storage-emulator>=2026.7,<2027",  # an object store for tests
        *NOTEBOOKS,
        f"libtpu>=0.0.42,<0.0.43; {PYTHON_3_11}",  # compiles TPU programs without a TPU; each jax release needs its own
        f"libtpu>=0.0.48,<0.0.49; {PYTHON_3_12}",
    ],
    "beam": [BEAM],
    "hub": [HUB],
    "peers": HUGGING_FACE,  # baselines of benchmarks/
    "notebooks": ["jupyter>=1.1,<2", *NOTEBOOKS],
    "logging": ["tensorboardX>=2.6.4,<3", "wandb>=0.28,<0.32"],  # event files without TensorFlow; W&B
}


def version() -> str:
    """Return the version of the package, read without importing it."""
    text = (ROOT / "finetune_scaling" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError("finetune_scaling/__init__.py has no __version__")
    return found.group(1)


setup(
    name="finetune-scaling",
    version=version(),
    description="How LLM finetuning scales with model, pretraining data, tuned parameters and examples, in JAX",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["finetune_scaling", "finetune_scaling.*"]),
    package_data={
        "finetune_scaling.evaluation.sample_page": ["*.html", "*.css", "*.js"],
        "finetune_scaling.report": ["*.css", "*.html"],
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
)
