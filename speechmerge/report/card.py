"""The model card of a packed system: what it is, how to load it, what it was trained on, how well it does."""
from pathlib import Path

import yaml

from speechmerge.files import read_json
from speechmerge.report.wording import POINTS
from speechmerge.tasks import get_task

READINGS = {"generation": "written freely", "labels": "labels scored"}
LOADING = {"peft": """```python
from peft import PeftModel
from transformers import {cls}

model = PeftModel.from_pretrained({cls}.from_pretrained("{base}"), "PATH_OR_NAME_OF_THIS_FOLDER")
```""", "transformers": """```python
from transformers import {cls}

model = {cls}.from_pretrained("PATH_OR_NAME_OF_THIS_FOLDER")
```"""}


def card(system, library: str, facts: dict, exp_dir: Path) -> str:
    """Markdown with the hub's front matter."""
    rows = score_rows(system, exp_dir)
    parts = [front_matter(system, library, facts, rows), f"# {system.name}", summary(system, facts),
             "## How to use", LOADING[library].format(cls=class_of(Path(system.path)), base=facts["base"]),
             usage(facts), "## Results", results(rows), "## How it was made", made(facts), "## Licences", licences(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(system, library: str, facts: dict, rows: list[dict]) -> str:
    languages = sorted({record["language"] for record in facts["trainings"] if record.get("language")})
    base = facts["base"]
    tags = ["speech", "speechmerge", *tasks_of(facts), *(["merge"] if facts["merge"] else [])]
    meta = {"library_name": library, "tags": tags}
    if base and not Path(base).is_dir():
        meta["base_model"], meta["base_model_relation"] = base, "merge" if facts["merge"] else (
            "adapter" if library == "peft" else "finetune")
    if languages:
        meta["language"] = languages
    found = [{"task": {"type": row["task"]}, "dataset": {"name": row["set"], "type": row["set"], "split": row["split"]},
              "metrics": [{"type": row["metric"], "value": round(row["value"], 4)}]} for row in rows]
    if found:
        meta["model-index"] = [{"name": system.name, "results": found}]
    return "---\n" + yaml.safe_dump(meta, sort_keys=False, allow_unicode=True) + "---"


def tasks_of(facts: dict) -> list[str]:
    return list(dict.fromkeys(record["task"] for record in facts["trainings"] if record.get("task")))


def class_of(folder: Path) -> str:
    """The class of transformers that loads the network."""
    config = read_json(folder / "adapter_config.json") if (folder / "adapter_config.json").is_file() else {}
    named = (config.get("auto_mapping") or {}).get("base_model_class")
    whole = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return named or (whole.get("architectures") or ["AutoModel"])[0]


def summary(system, facts: dict) -> str:
    tasks = ", ".join(tasks_of(facts)) or "an unknown task"
    if facts["merge"]:
        params = ", ".join(f"{key} = {value}" for key, value in sorted((facts["merge"].get("params") or {}).items()))
        return (f"Weights of {len(facts['merge']['adapters'])} fine-tuned models of `{facts['base']}` ({tasks}), merged "
                f"without training by `{facts['merge']['method']}`{f' ({params})' if params else ''}.")
    record = (facts["trainings"] or [{}])[0]
    kind = {"lora": "A LoRA adapter for", "full": "A fine-tuned copy of"}.get(record.get("tuning"), "Weights of")
    return f"{kind} `{facts['base']}`: {tasks}" + (f", language `{record['language']}`." if record.get("language") else ".")


def usage(facts: dict) -> str:
    """How it is told its task, and the command that decodes with it."""
    lines = []
    for record in facts["trainings"]:
        task, settings = get_task(record["task"]), record.get("settings") or {}
        told = settings.get("prompt", task.prompt)
        lines.append(f"- {record['task']}: {kept(settings, told)}")
    command = "speechmerge evaluate --task TASK --adapter THIS_FOLDER --data DATA_DIR"
    return f"With speechmerge: `{command}`\n\n" + "\n".join(lines)


def kept(settings: dict, told: str) -> str:
    options = ", ".join(f"{key} `{value}`" for key, value in sorted(settings.items()) if key != "prompt")
    return "; ".join(part for part in (f"prompt `{told}`" if told else "no prompt", options) if part)


def score_rows(system, exp_dir: Path) -> list[dict]:
    """Every score of the system below exp/decode, with its 95 % interval."""
    rows = []
    for path in sorted(exp_dir.glob(f"decode/*/{system.name}/*/score.json")):
        score = read_json(path)
        for reading in READINGS:
            if found := score.get(reading):
                rows.append({"split": path.parents[2].name, "set": score["set"], "task": score["task"], "reading": reading,
                             "metric": score["metric"], "value": found["value"], "ci": found["ci"], "n": found["n"],
                             "unit": found.get("ci_unit", "utterance")})
    return rows


def results(rows: list[dict]) -> str:
    if not rows:
        return "Not evaluated."
    lines = ["| data | split | n | reading | metric | value | 95 % interval |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        unit = "" if row["metric"] in POINTS else " %"
        low, high = (f"{100 * end:.1f}" for end in row["ci"])
        lines.append(f"| {row['set']} | {row['split']} | {row['n']} | {READINGS[row['reading']]} | {row['metric']} | "
                     f"{100 * row['value']:.1f}{unit} | {low} .. {high} (by {row['unit']}) |")
    return "\n".join(lines)


def made(facts: dict) -> str:
    """The commands, with versions and commit."""
    lines = []
    for record in facts["trainings"]:
        dev = ", ".join(f"{key} {value:.4g}" for key, value in record.get("dev", {}).items() if key != "n")
        lines += [f"Trained for {record['task']} on {record.get('utterances', '?')} utterances of `{record.get('data')}`, "
                  f"step {record.get('step')} of {record.get('steps')}" + (f" (dev: {dev})" if dev else "") + ":",
                  f"```\n{record.get('command')}\n```"]
    if facts["merge"]:
        lines += ["Merged:", f"```\n{facts['merge'].get('provenance', {}).get('command')}\n```"]
    origin = (facts["merge"] or {}).get("provenance") or (facts["trainings"] or [{}])[0]
    if versions := origin.get("versions"):
        packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        lines.append(f"speechmerge {origin.get('speechmerge')}, commit {origin.get('commit')}, "
                     f"Python {origin.get('python')}, {packages}")
    return "\n\n".join(lines) or "Unknown: the folder has no record of its training."


def licences(facts: dict) -> str:
    """Of the corpora, as `prepare` noted them beside the data; of the base there is nothing to say here."""
    lines = [f"The licence of the base `{facts['base']}` applies to it; the data it was trained on have theirs:"]
    for record in facts["trainings"]:
        note = Path(record.get("data") or "").parent / "prepare.json"
        found = read_json(note) if record.get("data") and note.is_file() else {}
        where = f", {found['homepage']}" if found.get("homepage") else ""
        lines.append(f"- {found.get('corpus', record.get('data'))}: {found.get('licence') or 'see the corpus'}{where}")
    return "\n".join(dict.fromkeys(lines))
