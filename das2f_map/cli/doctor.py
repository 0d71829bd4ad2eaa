"""`das2f-map doctor`"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from das2f_map.cli.configuration import configured_values
from das2f_map.cli.console import print_json, print_table
from das2f_map.cli.options import JsonOption

if TYPE_CHECKING:
    from das2f_map.workflows.doctor import Availability, DataFolder, Diagnosis


def doctor_command(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what this machine has, and what das2f-map will use of it.

    Example: das2f-map doctor
    """
    from das2f_map.workflows.doctor import diagnose

    diagnosis, configured = diagnose(), configured_values(context)
    if as_json:
        print_json({**diagnosis.to_dict(), "configuration": [asdict(one) for one in configured]})
        return
    versions = [(name, version or "not installed") for name, version in diagnosis.versions.items()]
    print_table("Versions", {"": "left", " ": "left"}, versions)
    print_table(
        "Data of PROJ and GDAL",
        {"Data of": "left", "Package": "left", "Folder": "left"},
        [(d.name, d.package, _folder(d)) for d in diagnosis.data],
    )
    print_table("Processor", {"": "left", " ": "left"}, _processor(diagnosis))
    if diagnosis.cuda_devices:
        print_table(
            "CUDA devices",
            {"Device": "left", "Name": "left", "Capability": "right", "Memory": "right", "Free": "right"},
            [
                (d["device"], d["name"], d["capability"], _size(d["memory_bytes"]), _size(d["free_bytes"]))
                for d in diagnosis.cuda_devices
            ],
        )
    else:
        print(f"No CUDA device: {diagnosis.cuda_missing}")
    print_table(
        "Selective-scan backends, in the order in which they are taken",
        {"Device": "left", "Backend": "left", "Can be used": "left"},
        [(a.device, a.name, _yes_or_why(a)) for a in diagnosis.scans],
    )
    print_table(
        "Engines, fastest first",
        {"Device": "left", "Engine": "left", "Precision": "left", "Can be used": "left"},
        [(a.device, a.name, a.precision, _yes_or_why(a)) for a in diagnosis.engines],
    )
    print_table(
        "Used unless you say otherwise",
        {"Device": "left", "Map, one stage": "left", "Map, two stages": "left", "Training": "left"},
        [(u.device, u.classify_one_stage, u.classify_two_stages, u.train) for u in diagnosis.uses],
    )
    print_table(
        "Extras",
        {"Extra": "left", "": "left"},
        [
            (e.name, f"{', '.join(e.missing)} not installed: {e.install}" if e.missing else "installed")
            for e in diagnosis.extras
        ],
    )
    if configured:
        print_table(
            "Options set by the environment or a file",
            {"Command": "left", "Option": "left", "Value": "left", "From": "left"},
            [(one.command, one.option, str(one.value), one.source) for one in configured],
        )
    else:
        print("No option is set by the environment or a file")


def _folder(data: DataFolder) -> str:
    named = f", by {data.variable}" if data.variable else ""
    return f"{data.folder}{named}{f': {data.trouble}' if data.trouble else ''}"


def _processor(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    cpu = diagnosis.cpu
    return [
        ("Name", f"{cpu['name']} ({cpu['machine']})"),
        ("Cores", f"{cpu['cores']}, {cpu['threads']} used"),
        ("Scan kernel", cpu["scan_kernel"]),
        ("Shared-scan kernels", cpu["shared_scan_kernels"]),
        ("PyTorch", cpu["torch_instructions"]),
        ("bf16 products", "yes" if cpu["bf16"] else "no"),
    ]


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"


def _yes_or_why(entry: Availability) -> str:
    return f"no: {entry.unavailable}" if entry.unavailable else "yes"
