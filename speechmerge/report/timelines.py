"""Plots of a router's probabilities over time beside what is true."""
import numpy as np

from speechmerge.report.figure import PALETTE, Plot, new_axes, png


def timeline_plot(name: str, probabilities: np.ndarray, labels: list[str], seconds: float, true=()) -> Plot:
    """probabilities: [t, labels] of equally long frames that last `seconds`; true: [(start, end, label)], drawn above."""
    figure, axes = new_axes(7.2, 2.6, name, grid="x")
    times = (np.arange(len(probabilities)) + 0.5) * seconds / len(probabilities)
    for place, label in enumerate(labels):
        axes.plot(times, probabilities[:, place], color=PALETTE[place % len(PALETTE)], linewidth=1.6, label=label)
    for start, end, label in true:
        colour = PALETTE[labels.index(label) % len(PALETTE)] if label in labels else "#888888"
        axes.barh(1.1, end - start, left=start, height=0.08, color=colour)
        axes.text((start + end) / 2, 1.18, label, ha="center", fontsize=8)
        axes.axvline(start, color="#888888", linewidth=0.6, linestyle=":")
    axes.set_xlim(0, seconds)
    axes.set_ylim(-0.03, 1.28)
    axes.set_xlabel("seconds; the bar above: what is spoken", fontsize=9)
    axes.set_ylabel("probability", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    rows = [["second", *labels], *([f"{time:.3f}", *(f"{value:.4f}" for value in row)] for time, row in zip(times, probabilities))]
    spoken = ", ".join(f"{label} from {start:.1f} to {end:.1f} s" for start, end, label in true)
    return Plot(name, name, f"Line chart of the router's probabilities over {seconds:.1f} s; spoken: {spoken or 'not known'}.",
                png(figure), rows)
