"""The parts of the build that pyproject.toml cannot say.

The compiled kernels are optional: without a C++ compiler the install still succeeds. The bundled
models lie in models/ of a checkout and inside the package, as das2f_map/models, of a wheel.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError

SCAN = "das2f_map/network/selective_scan/scan.cpp"
SHARED_SCAN = "das2f_map/engines/shared_scan/kernels/shared_scan.cpp"


class BuildKernels(build_ext):
    """Tries again without the matrix unit's instructions, which a compiler may know and its assembler not."""

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
    # Nothing else that MANIFEST.in names: the kernels' sources are for the source package alone.
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
                # How vectors are passed differs by instruction set; functions that take them are inlined.
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
        )
    ],
)
