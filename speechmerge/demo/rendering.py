"""What the page shows, as HTML: routing as bars and timelines, answers as tables. Everything that a model wrote is text."""
import html
import math

from speechmerge.demo.listener import Answer, Heard
from speechmerge.demo.subjects import Request, Subject
from speechmerge.report.figure import PALETTE
from speechmerge.report.wording import shown
from speechmerge.route.timeline import segments_of

KINDS = {"base": "base", "adapter": "adapter", "merged": "merge", "routed": "routed"}
MOST_LABELS = 3  # bars of a label set
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
        parts += [timeline(name, rows, colours, seconds) for name, rows in one.timelines.items()]
    if mixes := mix_table(answers):
        parts.append(f"<h4>What each routed system made of it</h4>{mixes}")
    return f'<div class="sm-part">{"".join(parts)}</div>'


def timeline(name: str, rows, colours: dict[str, str], seconds: float) -> str:
    """rows: [states, labels]. From left to right the sound, from bottom to top the share of each label."""
    parts, count = [], len(rows)
    for place, shares in enumerate(rows.tolist()):
        top = 100.0
        for share, colour in zip(shares, colours.values()):
            top -= 100 * share
            if share >= 0.005:
                parts.append(f'<rect x="{place}" y="{top:.1f}" width="1.02" height="{100 * share:.1f}" fill="{colour}"/>')
    stretches = ", ".join(f"{span.label} from {span.start:.1f} to {span.end:.1f} s"
                          for span in segments_of(rows.argmax(-1), list(colours), seconds))
    return (f'<h4>What {text(name)} hears when</h4><svg class="sm-timeline" role="img" aria-label="{text(stretches)}" '
            f'viewBox="0 0 {count} 100" preserveAspectRatio="none">{"".join(parts)}</svg>'
            f'<div class="sm-axis"><span>0 s</span><span>{text(stretches)}</span><span>{seconds:.1f} s</span></div>')


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


def tables(subjects: dict[str, Subject], answers: list[Answer], request: Request) -> str:
    """First the subject that a listed example is of."""
    ordered = sorted(subjects.values(), key=lambda subject: request.example not in subject.examples)
    return "".join(table(subject, answers, request) for subject in ordered)


def table(subject: Subject, answers: list[Answer], request: Request) -> str:
    """The answers to one subject; `answers` may be those to all."""
    own = [answer for answer in answers if answer.subject == subject.name]
    if not own:
        return ""
    known = subject.examples.get(request.example)
    truth = f'<p class="sm-truth">Expected: <q>{text(subject.task.written(known.target))}</q></p>' if known else ""
    columns = columns_of(subject, own, request)
    head = "".join(f'<th class="{kind}">{text(name)}</th>' for name, kind, _ in columns)
    body = "".join(row(answer, columns) for answer in own)
    return (f'<section class="sm-part"><h4>{text(subject.name)}</h4>{truth}<div class="sm-scroll"><table class="sm-table">'
            f"<thead><tr><th>system</th><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div></section>")


def columns_of(subject: Subject, answers: list[Answer], request: Request) -> list[tuple]:
    """[(heading, class of its cells, answer -> HTML)]: those that have something to show."""
    found = [("answer", "sm-text", lambda answer: written(answer, subject))]
    if any(answer.scores or answer.trial is not None for answer in answers):
        found.append(("probability per token", "sm-labels", label_bars))
    if request.example in subject.examples and subject.sounds == 1:
        metric = subject.task.metric
        found.append((metric.upper() if len(metric) < 5 else metric, "sm-number", lambda answer: score(subject, request, answer)))
    found.append(("decoding", "sm-number", lambda answer: f"{answer.decoding:.2f} s"))
    if any(answer.kind == "routed" for answer in answers):
        found.append(("routing", "sm-number", lambda answer: f"{answer.routing:.2f} s" if answer.kind == "routed" else ""))
    return [*found, ("× real time", "sm-number", lambda answer: f"{answer.real_time_factor:.2f}")]


def row(answer: Answer, columns: list[tuple]) -> str:
    name = (f'<th class="sm-system" title="{text(answer.system)}">{text(answer.system)}</th>'
            f'<td><span class="sm-kind sm-{answer.kind}">{KINDS[answer.kind]}</span></td>')
    if answer.problem:
        return f'<tr>{name}<td colspan="{len(columns)}" class="sm-none">{text(answer.problem)}</td></tr>'
    return f'<tr>{name}{"".join(f"""<td class="{kind}">{cell(answer)}</td>""" for _, kind, cell in columns)}</tr>'


def written(answer: Answer, subject: Subject) -> str:
    if answer.text is None:
        return "<i>nothing is written</i>"
    told = answer.told and subject.task.uses_language
    hint = f' <span class="sm-told" title="the language that the decoder was told">{text(answer.told)}</span>' if told else ""
    return (text(answer.text) if answer.text else "<i>(nothing)</i>") + hint


def score(subject: Subject, request: Request, answer: Answer) -> str:
    found = subject.score(request, answer.text)
    if found is None:
        return ""
    metric, value = found
    return "✓✗"[value != 1] if metric == "accuracy" else text(shown(value, metric))


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
