"""The parts of the build that pyproject.toml cannot say.

The compiled kernels are optional: without a C++ compiler the install still succeeds. The bundled models are
in models/ in a checkout, and in das2f_map/models in a wheel.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError

SCAN = "das2f_map/network/selective_scan/scan.cpp"
PIXELS = "das2f_map/scene/pixels.cpp"
SHARED_SCAN = "das2f_map/engines/shared_scan/kernels/shared_scan.cpp"


class BuildKernels(build_ext):
    """Builds the kernels; if that fails, tries again without the instructions of the matrix unit (AMX).

    Some compilers know these instructions while their assembler does not.
    """

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CCompilerError, CompileError):
            ext.define_macros.append(("DAS2F_NO_AMX", None))
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildKernels},
    packages=[*find_packages(include=["das2f_map*"]), "das2f_map.models"],
    package_dir={"das2f_map.models": "models"},
    # Install none of the other files in MANIFEST.in: only the source package needs the kernels' sources.
    include_package_data=False,
    package_data={"das2f_map": ["py.typed"], "das2f_map.models": ["*/*"]},
    ext_modules=[
        Extension(
            name,
            sources=[source],
            depends=[str(h) for h in (*Path(source).parent.glob("*.h"), *Path(SCAN).parent.glob("*.h"))],
            # No -ffast-math: it folds away the rounding trick in exp. Contraction to fma is wanted.
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-ffp-contract=fast",
                "-fno-math-errno",
                # GCC notes that vector arguments are passed differently by instruction set. That does no harm
                # here: functions that take vectors are inlined.
                "-Wno-psabi",
                "-fvisibility=hidden",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
        for name, source in (
            ("das2f_map.network.selective_scan._scan", SCAN),
            ("das2f_map.engines.shared_scan._kernels", SHARED_SCAN),
            ("das2f_map.scene._pixels", PIXELS),
        )
    ],
)
