package cluster

import (
	"context"
	"fmt"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// volumes is how many claims can be bound over the life of a cluster: a volume that
// was released is not given out again, since nobody empties it.
const volumes = 64

// storageClass is the name of the default class, and SmallStorageClass that of one
// with a single volume of smallBytes, which can be filled up. Other providers' clusters
// have no such class.
const (
	storageClass      = "fleet"
	SmallStorageClass = "fleet-small"
	smallBytes        = 64 << 20
)

// furnish makes what a cluster's distribution brings along: a default class of
// storage, and the Service of the name server, which runs beside the pods.
func (s *source) furnish(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(s.plane.Config())
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	for _, class := range []*storagev1.StorageClass{storageClassObject(storageClass), storageClassObject(SmallStorageClass)} {
		if _, err := client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making the class of storage %s: %w", class.Name, err)
		}
	}
	all := []*corev1.PersistentVolume{volumeObject("small", SmallStorageClass, s.path("volumes", "small"))}
	for i := range volumes {
		name := fmt.Sprintf("%02d", i)
		all = append(all, volumeObject(name, storageClass, s.path("volumes", name)))
	}
	for _, volume := range all {
		if err := os.Mkdir(volume.Spec.Local.Path, 0o755); err != nil {
			return fmt.Errorf("making the folder of a volume: %w", err)
		}
		if _, err := client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making volume %s: %w", volume.Name, err)
		}
	}
	if err := s.node.mountMemory(ctx, all[0].Spec.Local.Path, smallBytes); err != nil {
		return err
	}
	service, slice := s.nameServer()
	if _, err := client.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the Service of the name server: %w", err)
	}
	if _, err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the endpoint of the name server: %w", err)
	}
	return nil
}

// storageClassObject binds a claim when a pod uses it, as other distributions do.
func storageClassObject(name string) *storagev1.StorageClass {
	binding := storagev1.VolumeBindingWaitForFirstConsumer
	isDefault := strconv.FormatBool(name == storageClass)
	return &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: name, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": isDefault}},
		Provisioner:       "kubernetes.io/no-provisioner",
		VolumeBindingMode: &binding,
	}
}

// volumeObject is a volume in a folder of the host. Its size is what it says, not
// what it has. A local volume, unlike a hostPath, is given to a pod's fsGroup.
func volumeObject(name, class, path string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "fleet-" + name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("100Gi")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			StorageClassName:              class,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{nodeName}}},
			}}}},
		},
	}
}

// nameServer is the Service under which pods reach CoreDNS, and where that is.
func (s *source) nameServer() (*corev1.Service, *discoveryv1.EndpointSlice) {
	const name, port = "kube-dns", 53
	labels := map[string]string{"k8s-app": name, "kubernetes.io/cluster-service": "true"}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem, Labels: labels},
		Spec:       corev1.ServiceSpec{ClusterIP: s.network.dns.String()},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceSystem, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{s.network.node.String()}}},
	}
	for portName, protocol := range map[string]corev1.Protocol{"dns": corev1.ProtocolUDP, "dns-tcp": corev1.ProtocolTCP} {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: portName, Port: port, Protocol: protocol})
		number := int32(port)
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &portName, Port: &number, Protocol: &protocol})
	}
	return service, slice
}

// nodeReady is nil when the node takes pods, and else why not.
func (s *source) nodeReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(s.plane.Config())
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	found, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range found.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("the node is not ready: %s", condition.Message)
		}
	}
	return fmt.Errorf("the node %s has not reported yet", nodeName)
}
