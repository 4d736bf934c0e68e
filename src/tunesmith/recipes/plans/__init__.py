"""What a training would cost, one file for each command that trains: its flags, and how it is made ready without beginning it."""
