"""What every floor above stands on: status, precision, checks, files, progress."""
