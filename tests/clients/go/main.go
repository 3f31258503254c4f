// A session of etcd's own Go client against a cluster of three, whose leader is killed and comes back meanwhile.
//
// ENDPOINTS names the members, CONTROL whom to ask to kill one. Each scenario that holds prints "ok NAME SECONDS".
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Time for one call, across an election.
const patience = 20 * time.Second

type scenario struct {
	name string
	run  func(*session)
}

var scenarios = []scenario{
	{"kv", kv},
	{"txn", txn},
	{"compaction", compaction},
	{"watch", watch},
	{"lease", lease},
	{"namespace", namespaces},
	{"mutex", mutex},
	{"election", election},
	{"stm", stm},
	{"cluster and maintenance", maintenance},
	{"snapshot", snapshot},
	{"leader killed", leaderKilled},
	{"auth", auth},
}

// session is what a scenario has: a client of all members.
type session struct {
	*clientv3.Client
	endpoints []string
}

func main() {
	endpoints := strings.Split(os.Getenv("ENDPOINTS"), ",")
	client, err := connect(endpoints, "", "")
	must(err)
	defer client.Close()
	for _, each := range scenarios {
		begin := time.Now()
		each.run(&session{client, endpoints})
		fmt.Printf("ok %s %.1f\n", each.name, time.Since(begin).Seconds())
	}
	fmt.Printf("done %d\n", len(scenarios))
}

func connect(endpoints []string, user, password string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    2 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		Username:             user,
		Password:             password,
	})
}

// soon is a context for one call.
func soon() context.Context {
	// It ends by its deadline.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	_ = cancel
	return ctx
}

// control asks the harness for something, and returns its answer.
func control(ask string) string {
	conn, err := net.Dial("tcp", os.Getenv("CONTROL"))
	must(err)
	defer conn.Close()
	fmt.Fprintln(conn, ask)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	must(err)
	return strings.TrimSpace(answer)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func get[T any](value T, err error) T {
	must(err)
	return value
}

func check(holds bool, format string, values ...any) {
	if !holds {
		panic(fmt.Sprintf(format, values...))
	}
}

func equal[T comparable](what string, is, should T) {
	check(is == should, "%s is %v, not %v", what, is, should)
}
