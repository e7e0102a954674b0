"""Writes train.json, dev.json, test.json and vocab.txt: pairs of questions to a bank's help desk that
does not exist, in the form of AFQMC. Deterministic, standard library only: python3 make_data.py

A pair has label "1" if both questions ask the same about the same product, else "0". Most pairs with
label "0" are near misses: a neighbouring intent, or the same intent about another product.
"""
import json
import os
import random

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"train": 2400, "dev": 400, "test": 300}
SAME = 0.45  # share of label "1"
OTHER_PRODUCT, OTHER_GROUP = 0.10, 0.10  # of label "0"; the rest are neighbouring intents
# How often the first question has its group's first intent, by label. As in AFQMC, some questions are
# more often asked twice than others; without that no model learns pairs from so few examples.
COMMON = {True: 0.85, False: 0.50}

# Names of products, each with the ways people write it.
PRODUCTS = [["云朵贷", "云朵贷款"], ["月光卡", "月光信用卡"], ["稻穗存", "稻穗存款"]]

# Groups of neighbouring intents; an intent is a list of phrasings, P stands for the product.
GROUPS = [
    [["怎么提高P的额度", "P额度太低了，怎么提升", "想把P的额度调高一点，怎么弄", "P如何提额", "P能不能给我涨额度"],
     ["怎么降低P的额度", "P额度太高了，怎么调低", "想把P的额度调低一点，怎么弄", "P如何降额", "P能不能给我减少额度"],
     ["怎么查看P的额度", "P额度还有多少，在哪看", "想知道P的额度是多少", "P如何查额度", "P能不能查剩余额度"]],
    [["P可以提前还款吗", "P没到期，能不能提前还", "我想提前把P还清，行吗", "P支持提早还清吗", "P怎么提前结清"],
     ["P可以延期还款吗", "P快到期了，能不能晚几天还", "我想推迟P的还款，行吗", "P支持延后还款吗", "P怎么申请延期"],
     ["P可以分期还款吗", "P一次还不完，能不能分期还", "我想把P分几期还，行吗", "P支持分期吗", "P怎么办理分期"]],
    [["怎么开通P", "P在哪里开通", "想用P，如何申请", "没有P，怎么才能办一个", "P的申请入口在哪"],
     ["怎么关闭P", "P在哪里关闭", "不想用P了，如何注销", "有P，怎么才能销掉", "P的注销入口在哪"]],
    [["P怎么绑定银行卡", "P如何添加一张银行卡", "给P加银行卡在哪操作", "P绑卡的步骤是什么"],
     ["P怎么解绑银行卡", "P如何删除一张银行卡", "把P的银行卡去掉在哪操作", "P解绑卡的步骤是什么"],
     ["P怎么更换银行卡", "P如何换成另一张银行卡", "把P的银行卡换掉在哪操作", "P换卡的步骤是什么"]],
    [["P逾期了会罚多少钱", "P晚还的罚息怎么算", "P逾期一天收多少罚息", "P过期没还，要多交多少"],
     ["P逾期了会上征信吗", "P晚还影响信用记录吗", "P逾期一天会不会留不良记录", "P过期没还，征信有影响吗"],
     ["P逾期了会打电话吗", "P晚还会催收吗", "P逾期一天会不会联系家人", "P过期没还，会有人打电话催吗"]],
    [["P的利息是多少", "P一天要多少利息", "P利率怎么算", "用P要付多少息"],
     ["P的手续费是多少", "P一笔要多少手续费", "P费用怎么收", "用P要付手续费吗"]],
    [["P的还款日是哪天", "P几号还款", "P每月什么时候要还", "想知道P哪一天还"],
     ["P的还款日能改吗", "P换个日期还款行不行", "P每月还的日子想改一下", "想把P的还款日改到发工资后"],
     ["P的账单日是哪天", "P几号出账单", "P每月什么时候出账", "想知道P哪一天出账单"]],
    [["P的登录密码忘了怎么办", "P登不上，忘记密码了", "如何找回P的密码", "P密码想不起来了"],
     ["P的手机号换了怎么办", "P登不上，号码不用了", "如何修改P的手机号", "P手机号想换一个"],
     ["P的验证码收不到怎么办", "P登不上，没有验证码", "如何收到P的验证码", "P验证码一直不来"]],
    [["P转账多久到账", "P转出去的钱什么时候到", "用P转账要等几天", "P转账几时能收到"],
     ["P转账能撤回吗", "P转出去的钱能要回来吗", "用P转账转错了怎么办", "P转账怎么取消"],
     ["P转账有限额吗", "P转出去的钱最多多少", "用P转账一天能转几次", "P转账上限是多少"]],
]
OPENINGS = ["", "", "", "请问", "你好，", "我想问一下，", "麻烦问下", "您好，", "用app，"]
CONTEXTS = ["", "", "", "", "尾号***的", "我有***元，", "上次存了500元，", "我是vip，", "12月的，"]
ENDINGS = ["", "", "", "？", "?", "呢", "啊", "，谢谢", "，急"]
EXTRA = "!！。、：:；;（）()《》“”\"'…—·-_/%￥+=#@&<>[]~^|{}$`\\.,"  # punctuation for a user's own texts


class Picker:
    """Choices from random() alone, whose sequence Python promises to keep."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def index(self, count):
        return int(self.random() * count)

    def one(self, items):
        return items[self.index(len(items))]

    def other(self, items, taken):
        return self.one([item for item in items if item is not taken])


def question(pick, phrasing, product):
    text = phrasing.replace("P", pick.one(product), 1)
    return pick.one(OPENINGS) + pick.one(CONTEXTS) + text + pick.one(ENDINGS)


def pair(pick):
    """Two questions and their label."""
    group = pick.one(GROUPS)
    same = pick.random() < SAME
    common = pick.random() < COMMON[same]
    intent, product = group[0] if common else pick.one(group[1:]), pick.one(PRODUCTS)
    phrasing = pick.one(intent)
    first = question(pick, phrasing, product)
    if same:
        second = question(pick, pick.other(intent, phrasing), product)
    else:
        kind = pick.random()
        if kind < OTHER_PRODUCT:
            product = pick.other(PRODUCTS, product)
        elif kind < OTHER_PRODUCT + OTHER_GROUP:
            intent = pick.one(pick.other(GROUPS, group))
        else:
            intent = pick.other(group, intent)
        second = question(pick, pick.one(intent), product)
    return first, second, "1" if same else "0"


def write(name, lines):
    with open(os.path.join(HERE, name), "w", encoding="utf-8", newline="\n") as file:
        file.write("".join(line + "\n" for line in lines))


def main():
    pick, seen, sets = Picker(20240501), set(), {}
    for name, size in SIZES.items():
        rows = []
        while len(rows) < size:
            first, second, label = pair(pick)
            if first == second or (first, second) in seen or (second, first) in seen:
                continue
            seen.add((first, second))
            rows.append({"sentence1": first, "sentence2": second, "label": label})
        sets[name] = rows
    # As in AFQMC the first label seen is "0", so that class 0 is label "0".
    first_zero = next(i for i, row in enumerate(sets["train"]) if row["label"] == "0")
    sets["train"].insert(0, sets["train"].pop(first_zero))
    sets["test"] = [{"id": i, "sentence1": row["sentence1"], "sentence2": row["sentence2"]}
                    for i, row in enumerate(sets["test"])]
    for name, rows in sets.items():
        write(name + ".json", [json.dumps(row, ensure_ascii=False) for row in rows])

    text = "".join(first + second for first, second in seen) + EXTRA
    plain = [chr(code) for code in list(range(ord("0"), ord("9") + 1)) + list(range(ord("a"), ord("z") + 1))]
    others = sorted({char for char in text if not char.isspace()} - set(plain))
    write("vocab.txt", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + plain
          + ["##" + char for char in plain] + others)


if __name__ == "__main__":
    main()
