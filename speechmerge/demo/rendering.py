"""What the page shows, as HTML: routing as bars and timelines, answers as tables. Everything that a model wrote is text."""
import base64
import html
import math

from speechmerge.demo.listener import Answer, Heard
from speechmerge.demo.subjects import Request, Subject
from speechmerge.report.figure import PALETTE
from speechmerge.report.timelines import timeline_plot
from speechmerge.report.wording import shown

KINDS = {"base": "base", "adapter": "adapter", "merged": "merge", "routed": "routed"}
MOST_LABELS = 5  # bars of a label set
TEMPLATE = str.maketrans({char: f"&#{ord(char)};" for char in "{}$`"})  # gr.HTML reads values as templates, too


def text(value) -> str:
    return html.escape(str(value)).translate(TEMPLATE)


def box(kind: str, message: str) -> str:
    return f'<div class="sm-box sm-{kind}" role="{"alert" if kind == "problem" else "status"}">{text(message)}</div>'


def bar(share: float, colour: str, label: str, value: str) -> str:
    width = 100 * min(max(share, 0.0), 1.0)
    return (f'<div class="sm-bar"><span class="sm-name">{text(label)}</span><span class="sm-track"><span class="sm-fill" '
            f'style="width:{width:.1f}%;background:{colour}"></span></span><span class="sm-value">{text(value)}</span></div>')


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# Routing


def routing(heard: list[Heard], answers: list[Answer], seconds: float) -> str:
    """The probabilities of every router, what the systems made of them, and where there are frames what was heard when."""
    if not heard:
        return box("note", "No routed systems here: train a router (speechmerge train-router), or name them in --systems.")
    parts = []
    for one in heard:
        colours = {label: PALETTE[place % len(PALETTE)] for place, label in enumerate(one.probabilities)}
        bars = [bar(share, colours[label], label, percent(share))
                for label, share in sorted(one.probabilities.items(), key=lambda pair: -pair[1])]
        parts.append(f'<h4>Router {text(one.router)}: how probable is each label?</h4><div class="sm-bars">{"".join(bars)}</div>')
        parts += [timeline(name, rows, list(one.probabilities), seconds) for name, rows in one.timelines.items()]
    if mixes := mix_table(answers):
        parts.append(f"<h4>What each routed system made of it</h4>{mixes}")
    return "".join(parts)


def timeline(name: str, rows, labels: list[str], seconds: float) -> str:
    plot = timeline_plot(f"{name}: what is heard when", rows.numpy(), labels, seconds)
    data = base64.b64encode(plot.png).decode()
    return f'<img class="sm-timeline" alt="{text(plot.alt)}" src="data:image/png;base64,{data}">'


def mix_table(answers: list[Answer]) -> str:
    several = len({answer.subject for answer in answers if answer.route}) > 1
    rows = []
    for answer in answers:
        if answer.route is None:
            continue
        mix = " + ".join(f"{weight:.2f} {label}" for label, weight in sorted(answer.mix.items(), key=lambda pair: -pair[1])
                         if weight >= 0.005) or "each token its own"
        name = f"{answer.system} ({answer.subject})" if several else answer.system
        rows.append(f"<tr><th>{text(name)}</th><td>{text(mix)}</td><td class='sm-number'>{1000 * answer.routing:.0f} ms</td></tr>")
    head = "<tr><th>system</th><th>mix of adapters</th><th class='sm-number'>routing took</th></tr>"
    return f'<table class="sm-table"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>' if rows else ""


# Answers


def table(subject: Subject, answers: list[Answer], request: Request) -> str:
    """The answers to one subject; `answers` may be those to all."""
    own = [answer for answer in answers if answer.subject == subject.name]
    if not own:
        return ""
    known = subject.examples.get(request.example)
    truth = f'<p class="sm-truth">Expected: <q>{text(subject.task.written(known.target))}</q></p>' if known else ""
    with_labels = any(answer.scores or answer.trial is not None for answer in own)
    columns = ["system", "", "answer", *(["score per label"] if with_labels else []), *(["correct?"] if known else []),
               "decoding", "routing", "× real time"]
    numbers = {"decoding", "routing", "× real time", "correct?"}
    head = "".join(f'<th{" class=sm-number" if name in numbers else ""}>{text(name)}</th>' for name in columns)
    body = "".join(row(subject, answer, request, with_labels, known is not None) for answer in own)
    return (f'<section class="sm-subject"><h4>{text(subject.name)}</h4>{truth}<div class="sm-scroll"><table class="sm-table">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>")


def row(subject: Subject, answer: Answer, request: Request, with_labels: bool, known: bool) -> str:
    name = f'<th class="sm-system">{text(answer.system)}</th><td><span class="sm-kind sm-{answer.kind}">{KINDS[answer.kind]}</span></td>'
    if answer.problem:
        width = 4 + with_labels + known
        return f'<tr>{name}<td colspan="{width}" class="sm-none">{text(answer.problem)}</td></tr>'
    told = f'<span class="sm-told" title="the language that the decoder was told">{text(answer.told)}</span>' if answer.told else ""
    cells = [f'<td class="sm-text">{written(answer)} {told}</td>']
    cells += [f"<td>{label_bars(answer)}</td>"] if with_labels else []
    cells += [f'<td class="sm-number">{score(subject, request, answer)}</td>'] if known else []
    routed = f"{answer.routing:.2f} s" if answer.kind == "routed" else ""
    times = (f"{answer.decoding:.2f} s", routed, f"{answer.real_time_factor:.2f}")
    return f'<tr>{name}{"".join(cells)}{"".join(f"""<td class="sm-number">{time}</td>""" for time in times)}</tr>'


def written(answer: Answer) -> str:
    if answer.text is None:
        return "<i>not written</i>"
    return text(answer.text) if answer.text else "<i>(nothing)</i>"


def score(subject: Subject, request: Request, answer: Answer) -> str:
    found = subject.score(request, answer.text)
    if found is None:
        return ""
    metric, value = found
    if metric == "accuracy":
        return "✓" if value == 1 else "✗"
    return f"{text(metric.upper())} {text(shown(value, metric))}"


def label_bars(answer: Answer) -> str:
    """The best labels; the bar is the probability per token, the geometric mean over the label's tokens."""
    if not answer.scores:
        return f"cosine {answer.trial:.3f}" if answer.trial is not None else ""
    best = sorted(answer.scores.items(), key=lambda pair: -pair[1])[:MOST_LABELS]
    rows = [bar(math.exp(value), PALETTE[0] if label == answer.label else "#9aa5b1", label, percent(math.exp(value)))
            for label, value in best]
    return f'<div class="sm-bars sm-small">{"".join(rows)}</div>'


def timing(answers: list[Answer], seconds: float, changes: str, warm_up: float) -> str:
    """What was measured, and what not."""
    placing = sum(answer.placing for answer in answers)
    words = [f"Sound: {seconds:.1f} s{', ' + changes if changes else ''}.",
             "Decoding holds the encoder, the text and, where there are labels, their scores; × real time is decoding and routing, "
             "divided by the length of the sound.",
             f"Not counted: loading, the warm-up ({warm_up:.1f} s, once, before the first sound), the features, and "
             f"{placing:.2f} s of putting weights in place."]
    return f'<p class="sm-timing">{text(" ".join(words))}</p>'
