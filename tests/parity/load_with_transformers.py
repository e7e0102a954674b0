"""Loads a model folder saved by ctrain with Hugging Face transformers and scores one pair of texts. Used by hand.

    python load_with_transformers.py DIR "first text" "second text"

DIR holds config.json, model.safetensors and vocab.txt. Exit status 1: a tensor is missing, unexpected or misshapen.
"""

import argparse
import pathlib

import torch
import transformers


def words_of(folder):
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return transformers.BertTokenizer(vocab={word: i for i, word in enumerate(lines)}, do_lower_case=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("text", nargs="?", default="花呗怎么还款")
    parser.add_argument("pair", nargs="?", default="借呗可以还款吗")
    arguments = parser.parse_args()

    transformers.logging.set_verbosity_error()
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.dir, output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32)
    faults = {key: sorted(map(str, report[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    for key, names in faults.items():
        print(f"{key}: {', '.join(names) or 'none'}")
    print(f"class: {type(model).__name__}")
    print(f"parameters: {sum(p.numel() for p in model.parameters()):,}")

    batch = words_of(arguments.dir)(arguments.text, arguments.pair, return_tensors="pt")
    print(f"input_ids: {batch['input_ids'][0].tolist()}")
    print(f"token_type_ids: {batch['token_type_ids'][0].tolist()}")
    with torch.inference_mode():
        print(f"logits: {model.eval()(**batch).logits[0].tolist()}")
    raise SystemExit(any(faults.values()))


if __name__ == "__main__":
    main()
