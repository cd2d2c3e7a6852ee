"""What both corpora say of a command: scenario, action and entities as the tasks `intent` and `slu` read them."""
import json

TASKS = ("intent", "slu")


def label(task: str, scenario: str, action: str, entities: list[dict], prompt=None) -> dict[str, str]:
    """The label table of a task: {"intent": scenario_action}, or {"slu": JSON} with SLURP's number of the prompt as
    "slurp_id", for its evaluator. entities: [{type, filler}]."""
    if task == "intent":
        return {"intent": f"{scenario}_{action}"}
    frame = {"scenario": scenario, "action": action, "entities": entities}
    numbered = {} if prompt is None else {"slurp_id": str(prompt)}
    return {"slu": json.dumps(frame, ensure_ascii=False, separators=(",", ":")), **numbered}


def intents_of(splits, task: str) -> list[str] | None:
    """The closed set of the task intent: the intents of all splits, since the test has one that train may not have."""
    if task != "intent":
        return None
    return sorted({utterance.labels["intent"] for split in splits.values() for utterance in split.utterances.values()})
