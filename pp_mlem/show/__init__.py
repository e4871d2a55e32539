"""What a person sees: descriptions, plots, report, command line."""
