"""Package metadata. Tool settings live in pyproject.toml, versions in requirements.lock."""

import pathlib

import setuptools

_ROOT = pathlib.Path(__file__).parent

_CORE = [
    "jax>=0.10",
    "flax>=0.12",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12",
    "tensorflow-datasets>=4.9.9",
    "array_record>=0.8",
    "grain>=0.2.15",
    "sentencepiece>=0.2",
    "tokenizers>=0.21",
    "ml-collections>=1.1",
    "absl-py>=2.1",
    "chex>=0.1.90",
    "numpy>=2.0",
    "Pillow>=11",
    "pyarrow>=18",
    "safetensors>=0.5",
    "etils[epath]>=1.12",
    "tqdm>=4.66",
    "matplotlib>=3.9",
    "psutil>=6",
]
_EXTRAS = {
    "torch": ["torch>=2.6", "transformers>=5.0"],
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "serve": ["gradio>=6"],  # the page to try it on
    "watch": ["tensorboardX>=2.6.5"],  # event files without TensorFlow
    "wandb": ["wandb>=0.31"],
    "beam": ["apache-beam>=2.77"],  # lowers pillow and pyarrow: in a venv of its own
    "gcs": ["gcsfs>=2026.2"],  # workdirs with gs://
    "eval": ["lm-eval>=0.4.9", "accelerate>=1.0"],  # docs/convert.md
    "faiss": ["faiss-cpu>=1.9"],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "setuptools>=77",
        "ruff>=0.12",
        "pyright>=1.1.400",
        "tensorboardX>=2.6.5",
    ],
}

setuptools.setup(
    name="cm3leon-jax",
    version="0.1.0",
    description=(
        "CM3Leon in JAX: one decoder-only transformer that reads and writes text and"
        " images, retrieval-augmented, trained with the causal-masked objective."
    ),
    long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["cm3leon_jax", "cm3leon_jax.*"]),
    install_requires=_CORE,
    extras_require=_EXTRAS,
    entry_points={"console_scripts": ["cm3leon = cm3leon_jax.main:run"]},
)
