module citadel.test/reader

go 1.21
