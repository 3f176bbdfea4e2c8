"""Isaac Lab's signatures and order of events, without Isaac Sim. See the README beside this package."""

__version__ = "0.54.2"  # the extension's version in the released package 2.3.2, which differs from the package's own
