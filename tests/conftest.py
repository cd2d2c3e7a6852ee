"""What is common to all tests: the files that take longest begin, so that no processor is left with one of them at the end."""
LONGEST = ("test_recipes.py", "test_tedlium_speech_ft.py", "test_corpora_own.py", "test_families.py", "test_train.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
