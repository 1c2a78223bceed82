"""The test rig: real servers, faults, certificates and leak guards."""
