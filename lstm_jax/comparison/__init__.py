"""The comparison of cells: four cells on a task and on text, seven claims, one report."""
