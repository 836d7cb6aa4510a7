"""CTranslate2 in a process of its own: python engine_peer.py DIRECTORY float32 2. Imports nothing of nat_ar.

Reads a JSON object a line, {"pieces": [[...]], "steps": 25, "beam": 4, "hypotheses": 1}, translates twice, and writes
the seconds of the second translation and the pieces of its hypotheses, with the end of the sentence."""

import argparse
import json
import sys
import time

import ctranslate2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", help="an exported model")
    parser.add_argument("compute_type")
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    translator = ctranslate2.Translator(
        arguments.directory,
        device="cpu",
        compute_type=arguments.compute_type,
        inter_threads=1,
        intra_threads=arguments.threads,
    )
    print(json.dumps({"version": ctranslate2.__version__}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        for _ in range(2):  # the first wakes its threads
            start = time.perf_counter()
            results = translator.translate_batch(
                question["pieces"],
                beam_size=question["beam"],
                num_hypotheses=question["hypotheses"],
                min_decoding_length=question["steps"],
                max_decoding_length=question["steps"],
                return_end_token=True,
            )
            seconds = time.perf_counter() - start
        hypotheses = [result.hypotheses for result in results]
        print(json.dumps({"seconds": seconds, "hypotheses": hypotheses}), flush=True)


if __name__ == "__main__":
    main()
