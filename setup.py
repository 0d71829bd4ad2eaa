"""Builds the compiled selective scan. It is optional: without a C++ compiler the install still succeeds."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "das2f_map.network.selective_scan._scan",
            sources=["das2f_map/network/selective_scan/scan.cpp"],
            # No -ffast-math: it folds away the rounding trick in exp. Contraction to fma is wanted.
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-Wno-psabi",
                "-fvisibility=hidden",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ]
)
