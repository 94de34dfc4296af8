"""The control system: configuration database, Tango devices, processing controller, deployer."""
