#!/usr/bin/env python3
"""Writes the files of tests/data/torch with torch.save: what the C++ reader of PyTorch zips is tested on.

    scripts/make/make_test_files.py [FOLDER]

Every tensor holds 0, 1, 2, ... in some type, shape and layout, so that the test knows what to expect.
"""
import argparse
import json
import pathlib

import torch


def ramp(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).to(dtype).view(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="tests/data/torch", type=pathlib.Path)
    folder = parser.parse_args().folder
    (folder / "sharded").mkdir(parents=True, exist_ok=True)

    base = ramp(4, 6)
    torch.save({"base": base, "row": base[2], "column": base[:, 1], "transposed": base.t(), "tied": base,
                "expanded": ramp(3)[1:2].expand(5), "scalar": base[1, 1], "empty": torch.zeros(0, 3)},
               folder / "views.pt")
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8]
    torch.save({str(dtype): ramp(3, 5, dtype=dtype) for dtype in types}, folder / "types.pth")
    torch.save({"only": ramp(7)}, folder / "one_entry.bin")

    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    for parameter in module.parameters():
        parameter.data = ramp(*parameter.shape)
    state = module.state_dict()  # an OrderedDict with the attribute _metadata
    torch.save(state, folder / "module.pt")

    torch.save({"a": ramp(2, 3)}, folder / "sharded/pytorch_model-00001-of-00002.bin")
    torch.save({"b": ramp(5, dtype=torch.bfloat16)}, folder / "sharded/pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    index = {"metadata": {"total_size": 34}, "weight_map": weight_map}
    (folder / "sharded/pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")

    torch.save({"only": ramp(7)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"args": argparse.Namespace(lr=0.1)}, folder / "foreign.pt")
    torch.save({"model": {"only": ramp(7)}, "step": 3}, folder / "nested.pt")


if __name__ == "__main__":
    main()
