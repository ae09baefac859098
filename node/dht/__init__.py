"""A Kademlia DHT as pure state machines, wire-compatible with the libp2p kad-dht specification."""
