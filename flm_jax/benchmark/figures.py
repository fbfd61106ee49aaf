"""From the rates of a benchmark's rounds to its figures, and to text."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def summarise(rates: Mapping[str, Sequence[float]], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Medians, spreads and ratios.

    Args:
        rates: of every measurement, round by round: images a second, and FLOP a second of
            `matrix_product_flops`.
        figures: `num_devices`, and `model_flops_per_image` of `train` and `eval`.
    """
    medians: dict[str, Any] = {name: statistics.median(values) for name, values in rates.items()}
    medians["spread"] = {name: [min(values), max(values)] for name, values in rates.items()}
    peak = medians["matrix_product_flops"] * figures["num_devices"]
    medians["model_flop_utilisation"] = {
        kind: medians[kind] * figures["model_flops_per_image"][kind] / peak
        for kind in ("train", "eval")
    }
    alone = medians.get("train_one_device")
    medians["per_device_efficiency"] = (
        medians["train"] / (figures["num_devices"] * alone) if alone else None
    )
    ratios = {
        "loader_over_decode_limit": ("loader", "decode_limit"),
        "loader_over_bare_loop": ("loader", "bare_loop"),
        "loader_over_own_loop": ("loader", "own_loop"),
        "train_over_torch": ("train", "torch_train"),
        "eval_over_torch": ("eval", "torch_eval"),
    }
    # Round by round, and then the median: both sides of a ratio met the same machine.
    medians["ratios"] = {
        name: statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True))
        for name, (over, under) in ratios.items()
        if rates.get(under)
    }
    medians["ratios"]["end_to_end_over_slower"] = statistics.median(
        whole / min(loader, train)
        for whole, loader, train in zip(
            rates["end_to_end"], rates["loader"], rates["train"], strict=True
        )
    )
    return medians


def format_table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'images a second':<28}{'median':>10}{'slowest':>10}{'fastest':>10}"]
    for name, (low, high) in figures["spread"].items():
        if name != "matrix_product_flops":
            lines.append(f"{name:<28}{figures[name]:>10.1f}{low:>10.1f}{high:>10.1f}")
    lines += [f"{name:<28}{ratio:>10.3f}" for name, ratio in figures["ratios"].items()]
    for kind, share in figures["model_flop_utilisation"].items():
        lines.append(
            f"{f'{kind}, of a matrix product':<28}{100 * share:>9.1f} % of "
            f"{figures['matrix_product_flops'] / 1e9:.0f} GFLOP/s a device"
        )
    efficiency = figures["per_device_efficiency"]
    if efficiency is not None:
        lines.append(f"{'per-device efficiency':<28}{100 * efficiency:>9.1f} %")
    compilation = figures["compilation"]
    lines += [
        f"{'device, MB':<28}{figures['device_bytes'] / 1e6:>10.0f}",
        f"{'process at most, MB':<28}{figures['host_peak_bytes'] / 1e6:>10.0f}",
    ]
    rival = figures.get("torch", {}).get("host_peak_bytes")
    if rival:
        lines.append(f"{'PyTorch at most, MB':<28}{rival / 1e6:>10.0f}")
    lines += [
        f"{'start to first step, s':<28}{figures['start_to_first_step_seconds']:>10.1f}",
        f"{'of it compiling, s':<28}{compilation['xla_seconds']:>10.1f}"
        f" ({compilation['compiled']} programs compiled, {compilation['cached']} from the cache)",
        f"on {figures['num_devices']} {figures['device']}, {figures['num_cores']} cores",
    ]
    return "\n".join(lines)
