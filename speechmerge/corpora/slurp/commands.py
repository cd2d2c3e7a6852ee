"""The commands of the miniatures: templates with the corpora's own scenarios, actions and entity types.

A slot `{type}` is filled from WORDS; `{date:s}` stands for a value with the clitic 's, which is a token of its own.
"""
import re

from speechmerge.corpora.mini.text import split_of

SLOT = re.compile(r"{(\w+?)(:s)?}")
TRIES = 4000  # draws until a command belongs to the split and is new

COMMANDS = {
    "en": {
        "alarm_set": ["wake me up at {time}", "set an alarm for {time}", "i must get up at {time} {date}"],
        "alarm_remove": ["delete my {time} alarm", "cancel the alarm at {time}", "no alarm {date} please"],
        "calendar_set": ["put {event_name} on my calendar {date}", "remind me of {event_name} at {time}",
                         "add {person:s} {event_name} {date}"],
        "calendar_query": ["when is {person:s} {event_name}", "what do i have {date}",
                           "is there a {event_name} {date}"],
        "weather_query": ["how is the weather in {place_name}", "will it rain {date}",
                          "how warm is it in {place_name} {date}"],
        "play_music": ["play a song by {artist_name}", "i want to hear {artist_name}", "music by {artist_name} please"],
        "iot_hue_lightoff": ["turn off the light in the {house_place}", "lights off in the {house_place}",
                             "it is too bright in the {house_place}"],
        "lists_createoradd": ["put {food_type} on my list", "add {food_type} to the {list_name} list",
                              "new {list_name} list please"],
        "transport_ticket": ["book a {transport_type} to {place_name}", "i need a {transport_type} ticket {date}",
                             "a ticket to {place_name} please"],
        "general_joke": ["tell me a joke", "make me laugh", "do you know a joke", "say something funny",
                         "i want to hear a joke", "one more joke please"],
        "email_sendemail": ["send an email to {person}", "write to {person} {date}", "tell my {relation} i am late"],
    },
    "de": {
        "alarm_set": ["weck mich um {time}", "stell den wecker auf {time}", "ich muss {date} um {time} aufstehen"],
        "weather_query": ["wie ist das wetter in {place_name}", "wird es {date} regnen",
                          "ist es {date} kalt in {place_name}"],
        "play_music": ["spiel ein lied von {artist_name}", "ich will {artist_name} hören",
                       "musik von {artist_name} bitte"],
        "iot_hue_lightoff": ["mach das licht in {house_place} aus", "kein licht in {house_place}",
                             "dunkel bitte in {house_place}"],
        "transport_ticket": ["buche einen {transport_type} nach {place_name}", "eine fahrkarte nach {place_name}",
                             "ich nehme {date} den {transport_type}"],
        "email_sendemail": ["schreib eine mail an {person}", "sende {person} {date} eine mail"],
    },
}
TEST_ONLY = {"en": {"audio_volume_other": ["set the volume to {change_amount}", "volume at {change_amount} please"]},
             "de": {}}
BEFORE = {"en": ["", "please", "hello", "okay", "listen", "hey", "now", "well"],
          "de": ["", "bitte", "hallo", "okay", "also", "hey", "nun", "los"]}
WORDS = {
    "en": {
        "time": ["seven am", "ten", "six thirty", "five pm", "nine", "eight am", "noon"],
        "date": ["today", "tomorrow", "on friday", "on monday", "next week", "this evening"],
        "event_name": ["dinner", "meeting", "birthday", "party", "lunch", "concert"],
        "person": ["jessica", "peter", "anna", "john", "maria", "martin"],
        "relation": ["mother", "brother", "father", "sister", "boss"],
        "place_name": ["london", "rome", "berlin", "madrid", "delhi", "vienna"],
        "artist_name": ["queen", "adele", "the beatles", "nirvana", "sting", "abba", "prince", "cher"],
        "house_place": ["kitchen", "bathroom", "bedroom", "garden", "hall", "office"],
        "food_type": ["bread", "milk", "eggs", "apples", "tea", "rice"],
        "list_name": ["grocery", "shopping", "christmas", "work"],
        "transport_type": ["train", "bus", "taxi", "plane"],
        "change_amount": ["ten", "twenty", "fifty", "half", "thirty", "forty", "eight", "ninety"],
    },
    "de": {
        "time": ["sieben uhr", "zehn uhr", "halb neun", "acht uhr", "sechs uhr", "neun uhr"],
        "date": ["heute", "morgen", "am montag", "am freitag", "heute abend"],
        "person": ["anna", "peter", "maria", "martin", "sofia", "laura"],
        "place_name": ["berlin", "wien", "rom", "paris", "hamburg", "köln", "london"],
        "artist_name": ["nena", "queen", "abba", "peter fox", "sting", "falco", "adele", "bach", "mozart"],
        "house_place": ["der küche", "dem bad", "dem garten", "dem büro", "dem flur", "der garage"],
        "transport_type": ["zug", "bus", "flug"],
    },
}


def draw(rng, language: str, intent: str, split: str, seen: set[str]) -> list[tuple[str, str | None]]:
    """A command of `split` that is not in `seen` (and is from now on): [(words, entity type or None)]."""
    templates = {**COMMANDS[language], **TEST_ONLY[language]}[intent]
    for _ in range(TRIES):
        parts = fill(rng, f"{rng.choice(BEFORE[language])} {rng.choice(templates)}", WORDS[language])
        text = sentence(parts)
        if text not in seen and split_of(text) == split:
            seen.add(text)
            return parts
    raise ValueError(f"{language} {intent}: no new {split} command in {TRIES} draws")


def fill(rng, template: str, words: dict[str, list[str]]) -> list[tuple[str, str | None]]:
    parts, at = [], 0
    for slot in SLOT.finditer(template):
        value = rng.choice(words[slot[1]]) + ("'s" if slot[2] else "")
        parts += [(template[at:slot.start()].strip(), None), (value, slot[1])]
        at = slot.end()
    return [part for part in [*parts, (template[at:].strip(), None)] if part[0]]


def sentence(parts) -> str:
    return " ".join(text for text, _ in parts)


def annotation(parts) -> str:
    """`wake me up at [time : nine am]`, as both corpora write it."""
    return " ".join(f"[{kind} : {text}]" if kind else text for text, kind in parts)
