"""The paper's experiment section, one step after the other, as one report."""
