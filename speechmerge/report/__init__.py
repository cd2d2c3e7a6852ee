"""Tables, plots and pages that show what a merge kept and what it lost."""
