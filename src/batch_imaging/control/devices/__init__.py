"""The Tango devices through which an operator, or the telescope's control, drives the system.

A command is checked and recorded in the configuration database; what a device shows is derived from
the database by a thread that follows it. So nothing is lost with a device.
"""
