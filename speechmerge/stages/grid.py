"""speechmerge grid --grid conf/grid/mini.yaml [--action plan|states|phases|todo] [--phases train] [--param exp_dir=x]

plan prints every cell with its commands, states what is done, running, failed or missing. utils/grid.sh submits what
todo names; a job is `speechmerge grid --action run --cell-dir FOLDER`.
"""
from speechmerge.options import CommaList, boolean, key_value

HELP = "cells of a grid file (models x languages x ranks ...): plan, state, running one; utils/grid.sh submits them"
ACTIONS = ("plan", "states", "phases", "todo", "run")


def add_arguments(parser):
    parser.add_argument("--grid", metavar="FILE", help="conf/grid/<name>.yaml")
    parser.add_argument("--action",
                        choices=ACTIONS,
                        default="plan",
                        help="what to print, or run: the cell of --cell-dir")
    parser.add_argument("--phases", nargs="*", action=CommaList, default=[], help="and what they need (default: all)")
    parser.add_argument("--param", nargs="+", action="extend", type=key_value, default=[], metavar="KEY=VALUE",
                        help="over exp_dir and the values of the file")
    parser.add_argument("--gpus", type=int, help="of each job, instead of the file's; 0: none")
    parser.add_argument("--cell-dir", help="folder of the cell to run")
    parser.add_argument("--force", type=boolean, default=False, help="todo: finished cells, too")


def run(args):
    from speechmerge.errors import UsageError
    from speechmerge.grid.file import in_order

    if args.action == "run":
        from speechmerge.grid.cells import run_planned

        if not args.cell_dir:
            raise UsageError("--action run: which cell? give its folder with --cell-dir")
        return run_planned(args.cell_dir)
    if not args.grid:
        raise UsageError("--grid is missing: a file such as conf/grid/mini.yaml")
    given = dict(args.param)
    phases = in_order(args.grid, given, args.phases)
    if args.action == "todo":
        if len(args.phases) != 1:
            raise UsageError("--action todo: name one phase with --phases")
        return print_todo(phases[-1], given, args.gpus, args.force)
    printer = {"plan": print_plan, "states": print_states, "phases": print_phases}[args.action]
    printer(phases, args.gpus)


def print_phases(phases, gpus):
    for phase in phases:
        print(phase.path, phase.name, sep="\t")


def print_plan(phases, gpus):
    import shlex

    from speechmerge.grid.cells import state
    from speechmerge.grid.expand import cells
    from speechmerge.grid.queue import queue, queued

    now = queue(phases)
    for phase in phases:
        found, (waiting, _) = cells(phase, gpus), queued(phase, now)
        needs = f", after {' '.join(phase.needs)}" if phase.needs else ""
        options = " ".join(backend_options(phase, gpus))
        print(f"# {phase.grid} {phase.name}: {len(found)} cells{needs}{', ' if options else ''}{options}")
        for cell in found:
            print(f"# {cell.number} {cell.name}: {' '.join(filter(None, state(cell, waiting)))}")
            for command in cell.commands:
                print(shlex.join(command))


def print_states(phases, gpus):
    from collections import Counter

    from speechmerge.grid.cells import STATES, state
    from speechmerge.grid.expand import cells
    from speechmerge.grid.queue import queue, queued

    now = queue(phases)
    for phase in phases:
        waiting, jobs = queued(phase, now)
        found = [(cell, *state(cell, waiting)) for cell in cells(phase, gpus)]
        counts = Counter(entry[1] for entry in found)
        said = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
        print(f"{phase.grid} {phase.name}: {said} of {len(found)}{'; jobs ' if jobs else ''}{' '.join(jobs)}")
        for cell, name, remark in found:
            where = f", log is in {cell.log}" if name == "failed" else ""
            print(f"  {cell.number:>4} {cell.name}: {name}{' (' + remark + ')' if remark else ''}{where}")


def print_todo(phase, given, gpus, force):
    """Writes the plans of the cells to run and prints five lines: the phase's folder; those cells, by commas; options
    for the back end; jobs of the phases it needs; jobs of its own that are in the queue."""
    from speechmerge.grid.cells import DONE, FAILED, MISSING, forget, state, write_plan
    from speechmerge.grid.expand import cells
    from speechmerge.grid.file import needed
    from speechmerge.grid.queue import forget_ended, queue, queued

    before = needed(phase, given)
    now = queue([phase, *before])
    waiting, live = queued(phase, now)
    forget_ended(phase, now)
    chosen = [cell for cell in cells(phase, gpus)
              if cell.name not in waiting and (force or state(cell, waiting)[0] in (FAILED, MISSING))]
    for cell in chosen:
        write_plan(cell)
        if state(cell, {})[0] == DONE:
            forget(cell)
    before = [job for other in before for job in queued(other, now)[1]]
    print(phase.folder,
          ",".join(cell.name for cell in chosen),
          " ".join(backend_options(phase, gpus)),
          ",".join(before),
          ",".join(live),
          "end",
          sep="\n")  # the shell drops empty lines at the end


def backend_options(phase, gpus) -> list[str]:
    resources = {**phase.resources, **({} if gpus is None else {"gpus": gpus})}
    names = {
        "gpus": "--gpu",
        "nodes": "--nodes",
        "mem": "--mem",
        "time": "--time",
        "num_threads": "--num-threads",
        "max_jobs": "--max-jobs-run"
    }
    return [word for key, option in names.items() if resources.get(key) for word in (option, str(resources[key]))]
