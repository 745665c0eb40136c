// The same service as people write it for the exercise: Go's net/http and a map in memory. It keeps
// nothing. The load bench measures digestd's durable writes beside this.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
)

const bodyMax = 1 << 20

type store struct {
	mutex    sync.RWMutex
	messages map[string]string
}

func (s *store) put(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Message *string `json:"message"`
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyMax))
	if err := decoder.Decode(&body); err != nil || body.Message == nil {
		answer(w, http.StatusBadRequest, "error", "a message is expected")
		return
	}
	sum := sha256.Sum256([]byte(*body.Message))
	digest := hex.EncodeToString(sum[:])
	s.mutex.Lock()
	s.messages[digest] = *body.Message
	s.mutex.Unlock()
	answer(w, http.StatusCreated, "digest", digest)
}

func (s *store) get(w http.ResponseWriter, digest string) {
	s.mutex.RLock()
	message, found := s.messages[digest]
	s.mutex.RUnlock()
	if !found {
		answer(w, http.StatusNotFound, "error", "message not found")
		return
	}
	answer(w, http.StatusOK, "message", message)
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	digest := strings.TrimPrefix(r.URL.Path, "/messages/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/messages":
		s.put(w, r)
	case r.Method == http.MethodGet && digest != r.URL.Path:
		s.get(w, digest)
	default:
		answer(w, http.StatusNotFound, "error", "no such path")
	}
}

func answer(w http.ResponseWriter, status int, name, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{name: text})
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "listening on http://%s\nready\n", listener.Addr())
	log.Fatal(http.Serve(listener, &store{messages: make(map[string]string)}))
}
