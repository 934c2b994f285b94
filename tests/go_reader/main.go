// Says of each certificate on its input, one in hexadecimal a line, why Go cannot read it, or nothing.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		der, err := hex.DecodeString(lines.Text())
		if err == nil {
			_, err = x509.ParseCertificate(der)
		}
		if err != nil {
			fmt.Printf("%q\n", err.Error())
		} else {
			fmt.Println()
		}
	}
}
