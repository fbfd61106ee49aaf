"""From the rates of a benchmark's rounds to its figures, and to text."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_RATIOS = {
    "loader_over_decode_limit": ("loader", "decode_limit"),
    "loader_over_bare_loop": ("loader", "bare_loop"),
    "train_over_torch": ("train", "torch_train"),
    "eval_over_torch": ("eval", "torch_eval"),
}


def summarise(
    rates: Mapping[str, Sequence[float]],
    *,
    num_devices: int,
    model_flops_per_image: Mapping[str, float],
) -> dict[str, Any]:
    """Medians, spreads and ratios.

    Args:
        rates: of every measurement, round by round: images a second, and FLOP a second of
            `matrix_product_flops`.
        num_devices: that `train` and `eval` ran on.
        model_flops_per_image: of `train` and `eval`.
    """
    figures: dict[str, Any] = {name: statistics.median(values) for name, values in rates.items()}
    figures["spread"] = {name: [min(values), max(values)] for name, values in rates.items()}
    peak = figures["matrix_product_flops"] * num_devices
    figures["model_flop_utilisation"] = {
        kind: figures[kind] * flops / peak for kind, flops in model_flops_per_image.items()
    }
    alone = figures.get("train_one_device")
    figures["per_device_efficiency"] = figures["train"] / (num_devices * alone) if alone else None
    slower = [min(pair) for pair in zip(rates["loader"], rates["train"], strict=True)]
    pairs = {name: (rates[a], rates[b]) for name, (a, b) in _RATIOS.items() if b in rates}
    pairs["end_to_end_over_slower"] = (rates["end_to_end"], slower)
    # Round by round, and then the median: both sides of a ratio met the same machine.
    figures["ratios"] = {
        name: statistics.median(a / b for a, b in zip(*pair, strict=True))
        for name, pair in pairs.items()
    }
    return figures


def format_table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'images a second':<28}{'median':>10}{'slowest':>10}{'fastest':>10}"]
    for name, (low, high) in figures["spread"].items():
        if name != "matrix_product_flops":
            lines.append(f"{name:<28}{figures[name]:>10.1f}{low:>10.1f}{high:>10.1f}")
    compilation, torch = figures["compilation"], figures.get("torch", {})
    rows = {
        **figures["ratios"],
        "per-device efficiency": figures["per_device_efficiency"],
        "GFLOP/s of a matrix product": figures["matrix_product_flops"] / 1e9,
        **{f"{k}, share of it": v for k, v in figures["model_flop_utilisation"].items()},
        "device, MB": figures["device_bytes"] / 1e6,
        "process at most, MB": figures["host_peak_bytes"] / 1e6,
        "PyTorch at most, MB": torch.get("host_peak_bytes", 0) / 1e6,
        "start to first step, s": figures["start_to_first_step_seconds"],
        "of it compiling, s": compilation["xla_seconds"],
        "programs compiled": compilation["compiled"],
        "programs from the cache": compilation["cached"],
    }
    lines += [f"{name:<28}{value:>10.4g}" for name, value in rows.items() if value is not None]
    lines.append(f"on {figures['num_devices']} {figures['device']}, {figures['num_cores']} cores")
    return "\n".join(lines)
