"""Listening to one sound with everything that an experiment has: its base, adapters, merges and routers.

    listener = Listener(model, systems, subjects)
    for answer in listener.answers(request):
        print(answer.system, answer.text, answer.seconds)

`listener` and what it stands on know nothing of the page (`page`, gradio) that shows the answers.
"""
