"""Running a policy on a robot; never imports torch."""
