"""The TPU compiler's flags by generation, in one table with their sources.

    export LIBTPU_INIT_ARGS="$(python launch/flags.py v5litepod-256)"
    python launch/flags.py v6e:16x16 --slices 2

They let gathers of weights run beside products, and on v6e give kernels more of the fast
memory. Not measured here: no TPU was at hand. libtpu 0.0.42 knows all of them.
"""

import argparse

_MAXTEXT = "github.com/AI-Hypercomputer/maxtext, "
_ASYNC_GATHER = (
    "--xla_enable_async_all_gather=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
)
_SLICES = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
# generation -> (flags, source)
TABLE = {
    "v4": (
        ("--xla_enable_async_all_gather=true",),
        _MAXTEXT + "src/maxtext/configs/tpu/v4/22b.sh",
    ),
    "v5e": (_ASYNC_GATHER, _MAXTEXT + "src/maxtext/configs/tpu/v5e/16b.sh"),
    "v5p": (
        (
            *_ASYNC_GATHER,
            "--xla_tpu_megacore_fusion_allow_ags=false",
            "--xla_enable_async_collective_permute=true",
            "--xla_tpu_enable_ag_backward_pipelining=true",
        ),
        _MAXTEXT + "src/maxtext/configs/tpu/v5p/llama2_7b.sh",
    ),
    "v6e": (
        (*_ASYNC_GATHER, "--xla_tpu_scoped_vmem_limit_kib=98304"),
        _MAXTEXT + "src/maxtext/configs/tpu/v6e/llama2_7b_4096.sh",
    ),
    # Added where several slices work together: gradients over the network.
    "slices": (_SLICES, _MAXTEXT + "benchmarks/xla_flags_library.py"),
}
_PRODUCTS = {"v5litepod": "v5e"}  # what products are called that have another name


def flags(accelerator: str, num_slices: int = 1) -> list[str]:
    """Returns the flags of an accelerator, "v5litepod-256" or "v5e:16x16".

    Raises:
      ValueError: if its generation is not in the table.
    """
    name = accelerator.partition(":")[0].partition("-")[0]
    generation = _PRODUCTS.get(name, name)
    if generation not in TABLE or generation == "slices":
        known = ", ".join(name for name in TABLE if name != "slices")
        raise ValueError(f"no flags for {accelerator!r}; known generations: {known}")
    found = list(TABLE[generation][0])
    return found + (list(TABLE["slices"][0]) if num_slices > 1 else [])


def main() -> None:
    """Prints the flags in a line."""
    parser = argparse.ArgumentParser(description="Flags of the TPU compiler.")
    parser.add_argument("accelerator", help="v5litepod-256 or v5e:16x16")
    parser.add_argument("--slices", type=int, default=1)
    given = parser.parse_args()
    try:
        print(" ".join(flags(given.accelerator, given.slices)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
