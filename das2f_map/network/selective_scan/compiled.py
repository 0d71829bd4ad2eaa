from __future__ import annotations
import torch
def unavailable(device, dtype): return "todo"
def compiled_scan(*a): raise NotImplementedError
