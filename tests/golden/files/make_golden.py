"""Makes the small weight files that the io tests read. Run in this directory with
torch, numpy, safetensors and transformers installed:   python make_golden.py

Values are exact in every type used: element i of a tensor is base + i / 4.
"""
import collections
import os
import shutil
import zipfile

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, MegatronBertConfig
from transformers import MegatronBertForPreTraining, MegatronBertForSequenceClassification


def ramp(base, *shape, dtype=torch.float32):
    count = int(torch.Size(shape).numel())
    return (base + torch.arange(count) / 4).reshape(shape).to(dtype)


def repack(source, target, method, force_zip64=False):
    """The same entries again, compressed or with ZIP64 fields."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            with new.open(zipfile.ZipInfo(name) if method == 0 else name, "w", force_zip64=force_zip64) as out:
                out.write(old.read(name))


def safetensors():
    save_file(
        {
            "b.float": ramp(1, 2, 3),
            "a.float": ramp(-2, 4),
            "half": ramp(0, 5, dtype=torch.float16),
            "brain": ramp(3, 2, 2, dtype=torch.bfloat16),
            "long": torch.arange(3) - 1,
            "int": torch.tensor([7, -7], dtype=torch.int32),
            "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
            "flags": torch.tensor([True, False]),
            "double": ramp(9, 1, dtype=torch.float64),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 4),
            "词.\"quoted\"\n": ramp(5, 1),
        },
        "python.safetensors",
        metadata={"format": "pt"},
    )


def torch_bin():
    base = ramp(0, 3, 4)
    tied = ramp(10, 2, 2)
    state = collections.OrderedDict()
    state["plain"] = ramp(1, 2, 3)
    state["transposed"] = base.t()  # strides (1, 4)
    state["window"] = base[1:, 1:3]  # offset 5, strides (4, 1)
    state["expanded"] = ramp(4, 1).expand(3)  # stride 0
    state["tied.one"] = tied
    state["tied.two"] = tied
    state["half"] = ramp(0, 5, dtype=torch.float16)
    state["brain"] = ramp(3, 2, 2, dtype=torch.bfloat16)
    state["parameter"] = torch.nn.Parameter(ramp(2, 2))
    state["position_ids"] = torch.arange(4).unsqueeze(0)
    state["flags"] = torch.tensor([True, False])
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 4)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, "torch.bin")
    torch.save(dict(state_dict=dict(plain=ramp(1, 2, 3)), epoch=3, lr=0.5), "nested.bin")
    torch.save(state, "legacy.bin", _use_new_zipfile_serialization=False)
    marked = ramp(1, 2, 3)
    marked.note = "an attribute makes torch use _rebuild_from_type_v2"
    torch.save({"marked": marked}, "attribute.bin")
    repack("torch.bin", "zip64.bin", zipfile.ZIP_STORED, force_zip64=True)
    repack("torch.bin", "compressed.bin", zipfile.ZIP_DEFLATED)


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/ctrain_pickle_was_executed",)


def attack():
    torch.save({"weight": ramp(1, 2), "boom": Attack()}, "os_system.bin")


SMALL = dict(
    vocab_size=6, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    hidden_act="gelu_new", max_position_embeddings=4,
)


def fill(model):
    """Parameter k of the sorted names is the ramp from k."""
    with torch.no_grad():
        for k, (_, parameter) in enumerate(sorted(model.named_parameters())):
            parameter.copy_(ramp(k, *parameter.shape))


def directories():
    vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n蚂\n蚁\n"
    classifier = MegatronBertForSequenceClassification(MegatronBertConfig(**SMALL))
    fill(classifier)
    classifier.save_pretrained("classifier")
    classifier.save_pretrained("sharded", max_shard_size=800)

    pretrained = MegatronBertForPreTraining(MegatronBertConfig(**SMALL))
    pretrained.load_state_dict(classifier.state_dict(), strict=False)
    os.makedirs("pretrained", exist_ok=True)
    state = pretrained.state_dict()
    state["bert.embeddings.position_ids"] = torch.arange(4).unsqueeze(0)  # as older versions saved
    torch.save(state, "pretrained/pytorch_model.bin")
    pretrained.config.save_pretrained("pretrained")

    lightning = {"model." + name: value for name, value in classifier.state_dict().items()}
    os.makedirs("lightning", exist_ok=True)
    torch.save({"state_dict": lightning, "global_step": 5}, "lightning/pytorch_model.bin")
    classifier.config.save_pretrained("lightning")

    bare = BertModel(BertConfig(**SMALL))
    fill(bare)
    bare.save_pretrained("bare_bert")
    for folder in ("classifier", "sharded", "pretrained", "lightning", "bare_bert"):
        with open(folder + "/vocab.txt", "w", encoding="utf-8") as out:
            out.write(vocabulary)


for folder in ("classifier", "sharded", "pretrained", "lightning", "bare_bert"):
    shutil.rmtree(folder, ignore_errors=True)
torch.manual_seed(1)
safetensors()
torch_bin()
attack()
directories()
