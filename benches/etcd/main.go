// What three etcd members that sync carry, with the load of benches/throughput.rs: 300-byte values,
// 4 senders with at most 1,000 in flight together, N watchers in place of feed readers, and then
// 100 puts a second. Run it by benches/etcd.sh.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	senders    = 4
	inFlight   = 1000
	valueBytes = 300
	prefix     = "bench/"
)

var (
	endpoints = flag.String("endpoints", "", "client addresses of the members, by commas")
	watchers  = flag.Int("readers", 10, "watchers of all keys")
	seconds   = flag.Int("seconds", 10, "length of each measurement")
	next      atomic.Int64
	delivered atomic.Int64
	value     = strings.Repeat("x", valueBytes)
)

func connect(members []string, place int) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{members[place%len(members)]},
		DialTimeout: 5 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	return client
}

// put writes one new key and gives the time until it was confirmed.
func put(client *clientv3.Client) time.Duration {
	key := fmt.Sprintf("%s%016x", prefix, next.Add(1))
	started := time.Now()
	if _, err := client.Put(context.Background(), key, value); err != nil {
		log.Fatal(err)
	}
	return time.Since(started)
}

// atMost keeps inFlight puts under way for a while and gives how many were confirmed a second.
func atMost(clients []*clientv3.Client, span time.Duration) float64 {
	var waiting sync.WaitGroup
	var confirmed atomic.Int64
	started := time.Now()
	for place := range inFlight {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			for time.Since(started) < span {
				put(clients[place%senders])
				confirmed.Add(1)
			}
		}()
	}
	waiting.Wait()
	return float64(confirmed.Load()) / time.Since(started).Seconds()
}

// atRate puts so many times a second and gives the sorted times until they were confirmed.
func atRate(clients []*clientv3.Client, span time.Duration, rate int) []time.Duration {
	var waiting sync.WaitGroup
	var lock sync.Mutex
	var took []time.Duration
	beats := time.NewTicker(time.Second / time.Duration(rate))
	defer beats.Stop()
	for place := range int(span.Seconds()) * rate {
		<-beats.C
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			one := put(clients[place%senders])
			lock.Lock()
			took = append(took, one)
			lock.Unlock()
		}()
	}
	waiting.Wait()
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	return took
}

func main() {
	flag.Parse()
	members := strings.Split(*endpoints, ",")
	span := time.Duration(*seconds) * time.Second
	for place := range *watchers {
		client := connect(members, place)
		go func() {
			for response := range client.Watch(context.Background(), prefix, clientv3.WithPrefix()) {
				delivered.Add(int64(len(response.Events)))
			}
		}()
	}
	var clients []*clientv3.Client
	for place := range senders {
		clients = append(clients, connect(members, place))
	}
	atMost(clients, 2*time.Second) // connections and caches get warm
	before := delivered.Load()
	most := atMost(clients, span)
	deliveries := float64(delivered.Load()-before) / span.Seconds()
	took := atRate(clients, span, 100)
	at := func(share float64) float64 {
		place := int(share * float64(len(took)-1))
		return float64(took[place].Microseconds()) / 1000
	}
	fmt.Printf("etcd, %d watchers: %.0f confirmed/s, %.0f delivered/s; at 100/s: p50 %.2f p99 %.2f ms\n",
		*watchers, most, deliveries, at(0.5), at(0.99))
}
