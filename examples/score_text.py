"""Score texts with a bundle that reads text, as a user without this package would.

    python examples/score_text.py "I loved every minute." "It was far too long."
    python examples/score_text.py --model MODEL_ID_OR_DIR "I loved every minute."

Without --model, the bundle is runs/real/model, which `make real` makes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import pipeline

REAL_MODEL = "runs/real/model"


def main() -> None:
    parser = argparse.ArgumentParser(description="Score texts.")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--model", default=REAL_MODEL, help="folder or Hub id of a bundle (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.model == REAL_MODEL and not Path(REAL_MODEL, "config.json").is_file():
        sys.exit(f"{REAL_MODEL} is not there: make it with `make real`, or give --model")
    try:
        show_scores(arguments.texts, arguments.model)
    except (ValueError, OSError) as error:
        sys.exit(f"score_text.py: {error}")


def show_scores(texts: Sequence[str], model: str) -> None:
    """Print the score of each text.

    Raises:
        ValueError, OSError: for a text that cannot be scored, or a bundle that cannot be loaded.
    """
    pipe = pipeline("multimodal-sentiment", model=model, trust_remote_code=True)
    for text in texts:
        result = pipe({"text": text})
        if "scores" in result:  # of a bundle with several targets
            shown = "  ".join(f"{name} {score:.2f}" for name, score in result["scores"].items())
        else:
            shown = f"{result['score']:+.2f}  {result['label']:8}"
        print(f"{shown}  {text}")


if __name__ == "__main__":
    main()
