"""Writes vocab.txt and golden.json: token ids of hard strings by both Hugging Face tokenizers.

`slow` comes from transformers 4 (BertTokenizer), `fast` from the tokenizers package
(BertWordPieceTokenizer's pieces, which BertTokenizerFast is made of). They need no common
installation, so each side can be made in its own environment:

    python3 make_golden.py slow   # pip install 'transformers==4.46.3', Python 3.12 (Unicode 15.0)
    python3 make_golden.py fast   # pip install tokenizers==0.23.3 transformers
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
the un ##aff ##able want ##want ##ed wa runn ##ing hello world ##s e ##e a ##a b ##b c ##c i ##i o ##o
cafe naive resume istanbul σ ##σ οδος ##ς ος ά α ##α ß ##ß strasse ss ſ ##ſ k ##k å ω ##ω æ ø ł ##ł 1 ##1
2 ##2 12 ##12 3.5 . , ! ? * # ## ##* [ ] ( ) - _ ` ' " ; : / \\ @ $ ^ ~ + < > = | { } & %
花 呗 借 怎 么 还 款 一 二 ##花 ##呗 豈 更 鿿 㐀 䶵 𠀀 𪛖 𪜀 𫝀 𫠠 𬀀 𫢸 ##𫠠 ##𫢸 ａ ##ａ ｂ １ ＊ ， 。 ？ 「 」 、 … — · ￥ ℃ № ½ ² ㈠ ①
あ ##あ い ##い が か ##か ア ##ア ー ##ー ᄒ ##ᅡ ##ᆫ 한 国 語 ー日
😀 ##😀 👍 ❤ 👨 ##👩 🇨 ##🇳 ✓ → ™ © ® ° € £ क ##क ##ि ##् ก ##ก ##า ่ ש ##ש ب ##ب ไ
x ##x y ##y aaaaaaaaaa ##aaaaaaaaaa z ##z é ##́ ̄ ㋿ ﬁ ##ﬁ ᏸ ##Ᏸ ꭰ dž ǆ ⅷ ⓐ ԓ ա և ა ⴀ ა
𐐨 ##𐐨 𝐀 ##𝐀 𞤢 ⸻ ##⹃ ⹃ ⁇ ‐ ‑ – ‘ ’ “ ” ‹ › « » ¿ ¡ § ¶ ͏ ٪ ۔ । ॥ ๏ ༻ ᙭ ##᙭ \U000111c9 ##\u1734
""".split()

TEXTS = [
    "", " ", "\t\n\r", "hello world", "Hello WORLD!", "unaffable", "unwanted running", "UNWANTéD,running",
    "花呗怎么还款", "花 呗", "借a呗b", "花呗***借呗", "***", "还款12.5元", "１２３ａｂ", "，。？「」、…—·￥",
    "Café naïve résumé", "CAFE\u0301", "cafe\u0301\u0304", "Åå\u212b", "\u212a k K", "\u2126 Ω ω", "ΟΔΟΣ", "ὈΔΌΣ Σ",
    "ΑΣ ΑΣΑ Σ", "İstanbul", "ISTANBUL ı", "I\u0307", "STRASSE straße ẞ", "ſ ﬁ ﬂ", "Æ Ø Ł đ Đ", "Ǆ ǅ ǆ", "Ⅷ ⓐ Ⓐ",
    "a\u0000b", "a\ufffdb", "a\u0001b\u001fb\u007fc", "a\u0085b", "a\u00a0b", "a\u00adb", "a\u200bb", "a\u200cb\u200db",
    "a\u2028b\u2029c", "a\u202eb", "a\u2060b", "\ufeffhello\ufeff", "a\ufeffb", "花\u3000呗", "花\ufeff呗", "a\u1680b\u2003c\u202fa\u205fb",
    "a\u180eb", "a\ue000b", "a\U000f0000b", "a\u0378b", "a\uffffb", "a\U0001f9e6b", "a\U0010ffffb",
    "\u4e00\u9fff\u3400\u4db5", "\U00020000\U0002a6d6", "\U0002a700", "\U0002b740", "\U0002b820", "a\U0002b820b",
    "\U0002b8b8\U0002b820", "a\U0002b91fb", "\U0002b920\U0002cea1", "a\U0002c000b", "\U0002ceb0", "\U00030000a",
    "\uf900\uf901", "\U0002f800", "a\uf900b", "\ufa0e", "あいが", "がか\u3099", "アー", "カタカナ日本語", "ひらがな",
    "한국", "하나", "\u1112\u1161\u11ab", "한語", "😀", "😀😀", "a😀b", "👍🏽", "❤\ufe0f", "👨\u200d👩", "🇨🇳", "✓→™©®°€£",
    "#", "##", "##a", "a##b", "[CLS]", "[SEP]a[SEP]", "a[MASK]b", "[mask]", "[ CLS ]", "[UNK]花[PAD]", "[CLS", "CLS]",
    "[[CLS]]", "[CLS][CLS]", "[[[SEP]", "[X] [SEP", "hello[SEP]world", "花[SEP]呗", "é[CLS]É",
    "a" * 99, "a" * 100, "a" * 101, "x" * 100, "x" * 101, "é" * 100, "é" * 101, "花" * 101, "a" * 100 + "," + "a" * 101,
    "e\u0301" * 100, "a" * 101 + " hello", "\u200b" * 5 + "a" * 100, "unaffableq", "helloq world", "q", "aq", "bbbbq",
    "`'\"^$~+<>=|", "{}[]()@&%-_\\/;:", "\u037e\u0387\u1fef", "‐‑–—‘’“”‹›«»¿¡§¶", "؟٪۔।॥๏༻", "\u2e3b", "\u2e43a", "a\u2e52b", "\u166d",
    "a\u166db", "\U000111c9", "a\U000111c9b", "a\u1734", "a\U00011938b", "½²㈠①№℃", "क्ि", "กา่", "שׁ", "\u0628\u064e", "\u0e44\u0e17\u0e22",
    "\u302e\u302f花", "a\u302fb", "a\u0315\u0300\u05ae\u1d16d", "\U0001d15e", "\U0001d165\U0001d16d", "a\U0001d165\U0001d16d\u0301",
    "𐐀𐐨", "𝐀𝐚", "\U0001e900\U0001e922", "Ᏸ ᏸ Ꭰ ꭰ", "Ა ა Ⴀ ⴀ", "Ա և", "Ԓ", "㋿", "\u0340\u0341\u0344", "\u1e9b\u0323",
    "\u0130\u0307\u0131", "\u1f88\u1fbc\u1ffc", "a\u20ddb", "\u20e0x", "a\u061cb", "a\u08e2b", "a\u0890b", "a\u07fdb", "a\u1ac0b", "\U0001cf00a",
    "  花呗  ", "花\n呗\r\n怎", "hello\u00a0\u3000world", "3.5", "1,2;3", "a.b.c", "e-e_e", "花呗（借呗）？！", "花呗a1", "a1花2b",
    "hello\u0301", "\u0301", "\u0301花", "花\u0301呗", "花\u0301a", "*\u0301*", "a\u200b花", "[CLS]\u0301", "\u0301[SEP]", "​[SEP]​", "͏",
]
PAIRS = [
    ("花呗怎么还款", "借呗怎么还款"), ("花呗", ""), ("花呗", " "), (" ", "花呗"), ("花呗怎么", "借"), ("花", "借呗怎么还款"),
    ("a b c a b c a b c a", "花呗怎么还款一二花呗"), ("a b c a b c a", "花呗怎么还款一二花"), ("a [SEP] b", "c"), ("花呗一二", "花呗一二"),
]
LENGTHS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 64]


def vocabulary():
    # An empty line and a line that is U+2028 hold their numbers; a repeated token takes the later one.
    tokens = SPECIALS + ["", "\u2028"] + WORDS
    return tokens + ["hello"]


class Slow:
    def __init__(self, path):
        from transformers.models.bert.tokenization_bert import BertTokenizer
        self.hf = BertTokenizer(path)

    def ids(self, text):
        return self.hf.convert_tokens_to_ids(self.hf.tokenize(text))

    def pair(self, a, b, length):
        out = self.hf(a, b if a and b else None, truncation="longest_first", max_length=length)
        return out["input_ids"], out["token_type_ids"]


class Fast:
    def __init__(self, path):
        from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
        vocab = {}
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file):
                vocab[line.rstrip("\n")] = number
        self.hf = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        self.hf.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
        self.hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self.hf.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIALS])
        self.hf.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])])

    def ids(self, text):
        return self.hf.encode(text, add_special_tokens=False).ids

    def pair(self, a, b, length):
        self.hf.enable_truncation(length, strategy="longest_first")
        out = self.hf.encode(a, b if a and b else None)
        self.hf.no_truncation()
        return out.ids, out.type_ids


def main(kind):
    vocab_path, path = os.path.join(HERE, "vocab.txt"), os.path.join(HERE, "golden.json")
    with open(vocab_path, "w", encoding="utf-8", newline="\n") as file:
        file.write("".join(token + "\n" for token in vocabulary()))
    tokenizer = {"slow": Slow, "fast": Fast}[kind](vocab_path)
    golden = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            golden = json.load(file)
    pairs = []
    for a, b in PAIRS:
        for length in LENGTHS:
            ids, types = tokenizer.pair(a, b, length)
            pairs.append({"a": a, "b": b, "max_length": length, "ids": ids, "types": types})
    golden[kind] = {"texts": [{"text": t, "ids": tokenizer.ids(t)} for t in TEXTS], "pairs": pairs}
    rows = []
    for name in sorted(golden):
        texts = ",\n".join(json.dumps(row) for row in golden[name]["texts"])
        both = ",\n".join(json.dumps(row) for row in golden[name]["pairs"])
        rows.append(f'"{name}": {{\n"texts": [\n{texts}\n],\n"pairs": [\n{both}\n]}}')
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
