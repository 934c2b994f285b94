"""Generated gRPC stubs of `citadel.v1` (`make stubs`). Private: rooms reach them through `from citadel._wire import …`."""
