"""Everything that one report says, gathered from exp/ before any of it is written."""
from dataclasses import dataclass
from pathlib import Path

from speechmerge.provenance import provenance
from speechmerge.report.analyses import Study, examples_with_audio, read_studies
from speechmerge.report.coefficients import sweeps
from speechmerge.report.costs import cost_table
from speechmerge.report.examples import Audio, TaskExamples, task_examples
from speechmerge.report.figure import Plot
from speechmerge.report.listing import Listing
from speechmerge.report.origin import Step, steps
from speechmerge.report.pictures import size_in_page
from speechmerge.report.plots import all_plots
from speechmerge.report.routing import RouterReport, routed_shares, router_reports
from speechmerge.report.summaries import choose_merge
from speechmerge.report.tables import Results, read_results

TEXT_BYTES = 400_000  # of a page without pictures and audio, about


STUDIES_SHARE, STUDY_AUDIO_SHARE = 0.6, 0.25  # of what is left: pictures of analyses; then audio of their examples


@dataclass(frozen=True)
class Contents:
    """`dev`: results of the split that merges are chosen on, or None; `own`: provenance of this report; `shares`:
    (picture, table) of what routed systems did, or None."""
    title: str
    results: Results
    dev: Results | None
    plots: list[Plot]
    examples: list[TaskExamples]
    steps: list[Step]
    own: dict
    notes: list[str]
    studies: list[Study]
    routers: list[RouterReport]
    shares: tuple[Plot, Listing] | None
    sweeps: Listing | None
    costs: Listing | None

    def files(self) -> list:
        """Everything with numbers that is also written beside the page: Plots and Listings, by distinct names."""
        listings = [listing for router in self.routers for listing in router.listings]
        drawn = [plot for router in self.routers for plot in router.plots]
        return [*self.plots, *drawn, *listings, *(self.shares or ()), *filter(None, (self.sweeps, self.costs))]


def gather(exp_dir, split: str, dev_split: str, data, max_examples: int, max_bytes: int, title: str) -> Contents:
    """Raises SpeechMergeError, with the command that mends it, where something is missing.

    data: data directories are DATA/<task>/<split> where those that were decoded are gone. max_bytes: of the page;
    pictures of analyses and audio beyond it are left out.
    """
    results, dev = read_results(exp_dir, split), None
    if dev_split != split and (Path(exp_dir) / f"scores_{dev_split}.json").is_file():
        dev = read_results(exp_dir, dev_split)
    plots, routers, shares = all_plots(results), router_reports(exp_dir, split), routed_shares(results)
    drawn = [*plots, *(plot for router in routers for plot in router.plots), *(shares or ())[:1]]
    room = max(max_bytes - TEXT_BYTES - sum(size_in_page(plot.png) for plot in drawn), 0)
    studies, used = read_studies(exp_dir, int(STUDIES_SHARE * room))
    room -= used
    audio = Audio(int(STUDY_AUDIO_SHARE * room))
    studies = [examples_with_audio(study, exp_dir, audio) for study in studies]
    examples, left_out = gather_examples(results, dev, data, max_examples, room - audio.used)
    left_out += audio.left_out
    notes = [f"The audio of {left_out} utterances was left out to keep the page below {max_bytes / 1e6:g} MB."]
    return Contents(title, results, dev, plots, examples, steps(results), provenance(), notes if left_out else [], studies,
                    routers, shares, sweeps(exp_dir), cost_table(results))


def gather_examples(results: Results, dev: Results | None, data, count: int,
                    room: int) -> tuple[list[TaskExamples], int]:
    """Examples of every task and how many utterances had no room for their audio. `room`: bytes."""
    best = choose_merge(results, dev)
    examples, left_out = [], 0
    written = {task for _, task in results.cells["generation"]}  # trials scored by cosine alone have nothing to show
    tasks = [task for task in results.tasks if count > 0 and task.name in written]
    for i, task in enumerate(tasks):
        audio = Audio(room // (len(tasks) - i))  # what one task leaves over is shared by the others
        data_dir = task.data if Path(task.data).is_dir() else Path(data) / task.name / results.split
        examples.append(task_examples(results, task, data_dir, best and best.system, count, audio))
        room -= audio.used
        left_out += audio.left_out
    return examples, left_out
