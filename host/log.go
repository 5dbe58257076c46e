package host

import (
	"io"

	"github.com/sirupsen/logrus"
)

// Silent is a logger that drops everything.
func Silent() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}
