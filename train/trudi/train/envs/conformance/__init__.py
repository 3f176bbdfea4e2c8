"""Is a simulator what `envs/base.py` promises? Checks for any of them; `trudi conform TASK` prints what they find."""

from trudi.train.envs.conformance.recording import Make
from trudi.train.envs.conformance.report import Finding, Report, Verdict, check

__all__ = ["Finding", "Make", "Report", "Verdict", "check"]
