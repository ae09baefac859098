"""The pure cores of the DHT and of the code at sizes that no simulated world reaches: no streams, no disks."""
