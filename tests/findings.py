"""What the commands that look for faults print."""

from collections import Counter


def tell(kinds, found, faults):
    """Print how often each kind was found, and the first of those that are faults."""
    counts = Counter(kind for kind, _ in found)
    for kind in kinds:
        print(f"{kind:40}{counts[kind]:6}")
    for kind, text in [each for each in found if each[0] in faults][:100]:
        print(f"{kind}: {text}")
